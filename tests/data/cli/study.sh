# Studies: cells, summaries, interruption, and what cannot be.
cat > tiny.fqt <<'EOF'
model tiny {
  input image: 28x28x1
  classes 10
  use recipe plain
  image |> flatten |> linear(16) |> relu |> linear(10)
  train { epochs 1 batch 50 }
}
EOF
# Times are those of the machine.
masked() { sed -E 's/ [0-9]+:[0-9]{2} +[0-9]+$/ T R/; s/[0-9]+ images\/s/N images\/s/; s/ +/ /g'; }

# Stopped twice, in different cells; a cell is what the command says that trains it.
study() { fqtc study tiny.fqt --gbits 4,2 weights.per=channel,tensor --seeds 0,1 --validation 500 --name s "$@" 2>&1 | masked; }
study --quiet --max-steps 5
study --quiet --max-steps 189
study --quiet --threads 2
cut -d, -f1-5,12- runs/s/summary.csv
fqtc train tiny.fqt --quiet weights.per=channel --validation 500 --gbits 4 --seed 0 --name straight
for file in last.safetensors best.safetensors metrics.csv model.fqt; do
  cmp runs/straight/$file runs/s/g4-weights.per=channel-s0/$file && echo "$file: the same"
done
fqtc eval runs/s/g2-weights.per=tensor-s1

# More seeds: what is there stays.
before=$(cksum runs/s/*/last.safetensors)
fqtc study tiny.fqt --gbits 4,2 weights.per=channel,tensor --seeds 0,1,2 --validation 500 --name s 2>&1 | masked
test "$before" = "$(cksum runs/s/*-s[01]/last.safetensors)" && echo "kept"
grep -c '<svg' runs/s/summary.html
grep -E 'src=|href=|url\(' runs/s/summary.html runs/s/summary.svg

# Integers that a version of the program computed otherwise, or did not name: refused, or trained again and nothing else.
again() { fqtc study tiny.fqt --gbits 4,2 weights.per=channel,tensor --seeds 0,1 --validation 500 --name s "$@"; }
edit() { sed "$1" "$2" > edited && mv edited "$2"; }
before=$(cksum runs/s/*/last.safetensors)
edit 's/"fingerprint": ".*"/"fingerprint": "other"/' runs/s/g2-weights.per=tensor-s1/cell.json
again
edit '/"fingerprint"/d' runs/s/g4-weights.per=channel-s0/cell.json
again
again --force 2>&1 | sed -n 's/.*run folder/trained again:/p'
test "$before" = "$(cksum runs/s/*/last.safetensors)" && echo "the same"
again --quiet 2>&1 | masked
fqtc study tiny.fqt weights.per=channel --gbits 4 --seeds 0 --validation 500 --name b --quiet --max-steps 5
edit 's/"fingerprint": ".*"/"fingerprint": "other"/' runs/b/g4-s0/cell.json
echo > runs/b/g4-s0/last.safetensors
fqtc study tiny.fqt weights.per=channel --gbits 4 --seeds 0 --validation 500 --name b --quiet
fqtc study tiny.fqt weights.per=channel --gbits 4 --seeds 0 --validation 500 --name b --quiet --force 2>&1 | masked
cmp runs/straight/last.safetensors runs/b/g4-s0/last.safetensors && echo "the same"

# Cells of another model, other images, or a run; a cell that diverges.
fqtc study tiny.fqt --gbits 4,2 weights.per=channel,tensor --epochs 2 --seeds 0 --validation 500 --name s
fqtc study tiny.fqt --gbits 4,2 weights.per=channel,tensor --seeds 0 --name s
fqtc study tiny.fqt --gbits 4 weights.per=channel,tensor --seeds 0 --name s --force --quiet | masked
fqtc study tiny.fqt --name straight
fqtc study tiny.fqt optimizer.lr=0.05,16 schedule=constant --epochs 4 --name d --quiet 2>&1 | masked
cut -d, -f1-4 runs/d/summary.csv
echo > runs/d/optimizer.lr=16/cell.json && fqtc study tiny.fqt optimizer.lr=0.05,16 schedule=constant --epochs 4 --name d

# Other images under the same name: their cells are not mixed, and runs do not go on with them.
mkdir images && for file in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do
  cp "$REPO/models/data/fashion_sample/$file-ubyte.gz" images
done
fqtc study tiny.fqt --data images --seeds 0 --name i --quiet | masked
fqtc train tiny.fqt --data images --name half --quiet --max-steps 5
for kind in images-idx3 labels-idx1; do cp images/train-$kind-ubyte.gz images/t10k-$kind-ubyte.gz; done
fqtc study tiny.fqt --data images --seeds 0,1 --name i --quiet
fqtc train tiny.fqt --data images --name half --quiet --resume
rm -r images

# What is done stays in the summary when what is new is stopped; what is broken is found before anything is trained.
fqtc study tiny.fqt --gbits 4,2 --name k --quiet | masked
fqtc study tiny.fqt --gbits 8,4,2 --name k --quiet --max-steps 3
cut -d, -f1,3 runs/k/summary.csv
head -n 1 runs/k/g2/metrics.jsonl > first && mv first runs/k/g2/metrics.jsonl
fqtc study tiny.fqt --gbits 8,4,2 --name k --quiet
fqtc train tiny.fqt --name k
fqtc train tiny.fqt --name k --force

# Stopped from outside, and meanwhile nobody else's.
"$FQTC" study tiny.fqt --epochs 10000 --quiet --name stopped &
until test -s runs/stopped/run/metrics.jsonl; do sleep 0.1; done
"$FQTC" study tiny.fqt --epochs 10000 --quiet --name stopped
echo "exit $?"
kill -TERM $!
wait $!
echo "exit $?"

# Requests that make no sense.
fqtc study nowhere.fqt
fqtc study tiny.fqt --recipes plain,bn_rectifeid
fqtc study tiny.fqt --recipes ''
fqtc study tiny.fqt --gbits 8,1
fqtc study tiny.fqt --gbits 4,4
fqtc study tiny.fqt --seeds 0,x
fqtc study tiny.fqt --seeds=-1
fqtc study tiny.fqt weights.per=channel,,tensor
fqtc study tiny.fqt weights.pre=channel,tensor
fqtc study tiny.fqt --data nowhere
fqtc study tiny.fqt --validation 10000 --name v
fqtc study tiny.fqt --name ../elsewhere
test -e runs/v && echo "an empty study is left"
fqtc study tiny.fqt a=1,2 b=1,2 c=1,2 d=1,2 e=1,2 f=1,2 g=1,2 h=1,2 i=1,2 j=1,2 k=1,2 l=1,2 m=1,2 n=1,2
rm -r tiny.fqt runs
