# A study's section in a Markdown file: written, replaced, and refused where the file is not clear.
cat > tiny.fqt <<'END'
model tiny {
  input image: 28x28x1
  classes 10
  use recipe plain
  image |> flatten |> linear(16) |> relu |> linear(10)
  train { epochs 1 batch 50 }
}
END
# Times are those of the machine.
masked() { sed -E 's/ [0-9]+:[0-9]{2} / T /; s/ [0-9]+$/ R/; s/ +/ /g'; }
study() { fqtc study tiny.fqt --data sample --quiet --threads 1 "$@" 2>&1 | masked; }

# Into a file of its own; an unfinished study changes nothing.
study --gbits 4,2 --seeds 1,0 --markdown new.md --max-steps 5
test -e new.md || echo "nothing is written"
study --gbits 4,2 --seeds 1,0 --markdown new.md
masked < new.md

# The commands give what the file says.
sed -n 's/^\$ fqtc //p' new.md | while read -r call; do "$FQTC" $call --quiet; done > given
grep '^test accuracy' new.md | cmp - given && echo "the same"

# Into a file with an end of another kind and the section of another study; what is there stays.
printf '# Models\r\n\ntext, and <!-- study tiny-study --> in a line\n<!-- study other -->\n|\n<!-- end of study other -->\nmore' > page.md
cp page.md before.md
study --gbits 4,2 --seeds 1,0 --markdown page.md > log
(cat before.md; printf '\n\n'; cat new.md) | cmp - page.md && echo "added"
printf 'end' >> page.md
cp page.md before.md
study --gbits 4,2 --seeds 1,0 --markdown page.md > log
cmp before.md page.md && echo "unchanged"
study --gbits 8 --name other --markdown page.md
head -n 23 page.md | masked
(cat new.md; printf 'end') > tail.md
tail -c "$(wc -c < tail.md)" page.md | cmp - tail.md && echo "kept"

printf 'title\n<!-- study other -->\n<!-- end of study other -->\n' > last.md
study --gbits 8 --name other --markdown last.md > log
head -n 2 last.md

# A run that diverged says so.
study optimizer.lr=0.05,16 schedule=constant --epochs 4 --name d --markdown d.md > log
grep -E '^(\||\$|error)' d.md | masked

# Files that are not clear, commands that others cannot run: said before any work.
broken() {
  printf "$1" > broken.md && cp broken.md before.md
  fqtc study tiny.fqt --name none --markdown broken.md
  cmp broken.md before.md
}
broken '<!-- study none -->\n'
broken '\n<!-- end of study none -->\n'
broken '<!-- study none -->\n<!-- end of study none -->\n<!-- study none -->\n<!-- end of study none -->\n'
broken '<!-- study none -->\n<!-- study x -->\n<!-- end of study x -->\n<!-- end of study none -->\n'
broken '\377'
fqtc study tiny.fqt --name none --markdown nowhere/page.md
fqtc study tiny.fqt --name none --markdown runs
"$FQTC" study "$PWD/tiny.fqt" --name none --markdown page.md 2>&1 | sed "s|$PWD|HERE|"
fqtc study tiny.fqt --data /tmp --name none --markdown page.md
fqtc study tiny.fqt --data "two
lines" --name none --markdown page.md
fqtc study tiny.fqt --name "$(printf %0126d 0)" --markdown page.md
test -e runs/none && echo "an empty study is left"
rm -r runs tiny.fqt *.md given log
