# Runs: their folders, checkpoints and data.
cat > tiny.fqt <<'END'
model tiny {
  input image: 28x28x1
  classes 10
  use recipe plain
  image |> flatten |> linear(16) |> relu |> linear(10)
  train { epochs 1 batch 32 }
}
END
fqtc train tiny.fqt --quiet --max-steps 5 --threads 1
fqtc train tiny.fqt --quiet
fqtc train tiny.fqt --quiet --resume --threads 2
fqtc train tiny.fqt --quiet --name straight --threads 3
fqtc eval runs/tiny
fqtc eval runs/tiny --batch-statistics
fqtc eval tiny.fqt
fqtc eval .
fqtc predict runs/tiny --count 3
fqtc predict runs/tiny --from 2000
fqtc predict runs/tiny nowhere.png
fqtc predict runs/tiny tiny.fqt
fqtc train tiny.fqt --quiet --name other --resume

# Checkpoints that are none, cut off, changed, or of another model.
fqtc eval tiny.fqt --checkpoint nowhere.safetensors
fqtc eval tiny.fqt --checkpoint runs
: > empty && fqtc eval tiny.fqt --checkpoint empty
fqtc eval tiny.fqt --checkpoint tiny.fqt
head -c 5000 runs/tiny/last.safetensors > short && fqtc eval tiny.fqt --checkpoint short
(cat runs/tiny/last.safetensors; echo more) > long && fqtc eval tiny.fqt --checkpoint long
size=$(wc -c < runs/tiny/last.safetensors)
(head -c $((size - 9)) runs/tiny/last.safetensors; printf '123456789') > changed && fqtc eval tiny.fqt --checkpoint changed
printf '\377\377\377\377\377\377\377\177{}' > header && fqtc eval tiny.fqt --checkpoint header
printf '\004\0\0\0\0\0\0\0{}{}' > header && fqtc eval tiny.fqt --checkpoint header
fqtc eval tiny.fqt --checkpoint /dev/zero
fqtc eval tiny.fqt --abits 5 --batch 100 --checkpoint runs/tiny/last.safetensors
sed 's/linear(10)/linear(20) |> relu |> linear(10)/' tiny.fqt > wider.fqt && fqtc eval wider.fqt --checkpoint runs/tiny/last.safetensors
fqtc train tiny.fqt --quiet --resume=runs/tiny/last.safetensors --gbits 4
fqtc train tiny.fqt --quiet --name elsewhere --resume=changed

# What does not continue a run changes nothing of it.
fqtc train tiny.fqt --quiet --resume linear1.features=20
fqtc train tiny.fqt --quiet --resume --seed 3
fqtc train tiny.fqt --quiet --resume --epochs 2
fqtc train tiny.fqt --quiet --resume augment=flip
fqtc train tiny.fqt --quiet --resume=changed
cp runs/tiny/last.safetensors elsewhere.safetensors && fqtc train tiny.fqt --quiet --resume=elsewhere.safetensors
fqtc train tiny.fqt --quiet --resume=elsewhere.safetensors --name elsewhere
fqtc eval runs/tiny

# A run is replaced by one that can begin only.
fqtc train tiny.fqt --quiet --force --batch 20000
fqtc eval runs/tiny

# A run that diverges does so at the same step when it was stopped before.
wild="mlp --quiet --batch 32 optimizer.lr=16 optimizer.momentum=0.99 schedule=constant"
fqtc train $wild --name straight-on
fqtc train $wild --name stopped --max-steps 200
fqtc train $wild --name stopped --resume
cmp runs/straight-on/metrics.jsonl runs/stopped/metrics.jsonl
rm -r runs/straight-on runs/stopped

# Data that does not fit, and labels that are not classes.
fqtc train tiny.fqt --quiet --name nodata --data nowhere
fqtc train tiny.fqt --quiet --name nodata --batch 20000
sed 's/classes 10/classes 3/; s/linear(10)/linear(3)/' tiny.fqt > three.fqt
fqtc train three.fqt --quiet
sed 's/28x28x1/1024x1024x3/; s/flatten/conv(1, 1x1, stride = 64) |> flatten/; s/batch 32/batch 1/' tiny.fqt > large.fqt
(ulimit -v 4000000; fqtc train large.fqt --quiet)
rm -f elsewhere.safetensors empty short long changed header wider.fqt large.fqt

# Places that cannot be written: runs is a file; no room for a checkpoint; a full disk for the metrics.
mkdir other && cd other && : > runs
fqtc train ../tiny.fqt --quiet
rm runs
# The limit would hold for the file that records this output too, so a pipe is between.
(trap '' XFSZ; ulimit -f 8; fqtc train ../tiny.fqt --quiet --max-steps 3) 2>&1 | cat
(trap '' XFSZ; ulimit -f 0; fqtc train ../tiny.fqt --quiet --name none) 2>&1 | cat
test ! -e runs/none || echo "an empty run is left"
rm -r runs
fqtc train ../tiny.fqt --quiet --max-steps 0
rm runs/tiny/metrics.csv && ln -s /dev/full runs/tiny/metrics.csv
fqtc train ../tiny.fqt --quiet --resume
