# Measuring. Numbers differ from time to time, and so does the order of kernels: the first two parts are shown.
first() { sed -E '/^kernel/,$d; s/(most).*(resident)/\1 N \2/; s/[0-9]+(\.[0-9]+)?/N/g; s/ +/ /g'; }
fqtc bench mlp --features x86_64_baseline --threads 1 --steps 1 --repetitions 2 --gbits 4 | first
fqtc bench nothing
fqtc bench mlp --steps 0
fqtc bench mlp --rounds 2

# In turns with another program, here one that only says what it was asked. Tables are left out.
turns() {
  fqtc bench mlp --threads 2 --batch 32 --steps 1 --repetitions 1 --against pytorch "$@" 2>&1 |
    sed -E '/random pixels/,/others/d; /^$/,/others/d; s/[0-9]+ and ([0-9]+ images)/N and \1/; s/[0-9.]+ times/N times/; s/, [0-9.]+ of its/, N of its/'
}
cat > peer.sh <<'END'
echo "$*" >> asked
echo '{"version": "1.0", "images_per_s": 50.0, "peak_rss_mib": 30.5, "rss_after_import_mib": 20.5}'
END
turns --script peer.sh --python sh --rounds 2 --dtype fp32,fakequant-predrawn
cat asked
turns
turns --script peer.sh --python ./nowhere
echo 'echo "some reason" >&2; exit 3' > fails.sh && turns --script fails.sh --python sh
echo 'echo hello' > says.sh && turns --script says.sh --python sh
