# A folder in which nothing may be written. Root may write everywhere, so it becomes somebody else first.
mkdir locked && cp "$FQTC" program && chmod 755 . .. && chmod 555 locked
if [ "$(id -u)" = 0 ]; then
  setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'cd locked && ../program train mlp --quiet; echo "[exit $?]"'
else
  (cd locked && ../program train mlp --quiet; echo "[exit $?]")
fi
rm program
