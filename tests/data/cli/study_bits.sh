# Bits under a budget: what is chosen, how to train it, and what cannot be. Measured numbers are masked: they hang on
# the platform's mathematical library in their last digits.
cat > tiny.fqt <<'END'
model tiny {
  input image: 28x28x1
  classes 10
  use recipe plain
  quantize gradients of fixed with stochastic(bits = 5)
  x     = image |> conv(4, 3x3, stride = 2) |> relu
  fixed = x |> conv(4, 3x3, stride = 2)
  fixed |> relu |> conv(8, 3x3, stride = 2) |> relu |> flatten |> linear(16) |> relu |> linear(10)
  train { epochs 20 batch 50 }
}
END
masked() { sed -E 's/[+-]?([0-9]+\.[0-9]{4}|[0-9]\.[0-9]{2}e-?[0-9]+)/N/g; s/ +/ /g'; }
bits() { fqtc study bits tiny.fqt --count 16 --passes 8 "$@" 2>/dev/null | masked; }

bits --budget 8
bits --budget 2
bits --budget 4.5 --write chosen.fqt
grep gradients chosen.fqt
fqtc train chosen.fqt --quiet --epochs 1 --name chosen
# What the command without --write trains is the same model.
"$FQTC" study bits tiny.fqt --count 16 --passes 8 --budget 4.5 2>/dev/null | tail -1 | sed "s|^fqtc|'$FQTC'|; s/$/ --epochs 1 --quiet --name same/" | sh
cmp runs/chosen/model.fqt runs/same/model.fqt && echo "the same"

# Weights and activations too, with other budgets.
bits --budget 4 --choose gradients,weights,activations | grep -v '^fqtc'
bits --budget 2Mbops --choose weights,gradients --abits 6 | tail -4
bits --budget 2.4KiB --choose activations --gbits 3 --wbits 4 | tail -4

# A network that has died, in which nothing can be measured.
fqtc study bits tiny.fqt --budget 4 --lr 16 schedule=constant 2>&1 | tail -3
fqtc study noise tiny.fqt --gbits 4 --lr 16 schedule=constant 2>&1 | tail -3

# Noise beside noise: values of a key, and those that make no difference; a run is not trained again.
fqtc study noise tiny.fqt gradients.per=tensor,row --gbits 4,2 --count 4 --passes 2 2>/dev/null | sed -E 's| +[0-9]+\.[0-9].*||'
fqtc study noise tiny.fqt gradients.bits=8,4 --gbits 8
fqtc study noise tiny.fqt gradients.bits=3
fqtc study noise tiny.fqt epochs=1,2 batch=50 --gbits 4 --count 4 --passes 2 2>/dev/null | sed -E 's| +[0-9]+\.[0-9].*||'
fqtc study noise tiny.fqt epochs=1,2 --epochs 1
fqtc study noise tiny.fqt gradients.per=tensor,rwo
fqtc study noise runs/chosen optimizer.lr=0.1,0.2
fqtc study noise runs/chosen --gbits 4 --epochs 2

# Requests that make no sense.
fqtc study bits tiny.fqt
for budget in 1.9 8.5 -4 four nan 4KB -1KiB ''; do fqtc study bits tiny.fqt --budget "$budget"; done
fqtc study bits nowhere.fqt --budget 4
fqtc study bits tiny.fqt --budget 0.1Mbops
fqtc study bits tiny.fqt --budget 0.001KiB --choose weights
fqtc study bits tiny.fqt --budget 4 --choose weight
fqtc study bits tiny.fqt --budget 4 --choose weights,activations --abits 8
fqtc study bits tiny.fqt --budget 4 '*.gradients.bits=4'
fqtc study bits tiny.fqt --budget 4 gradients.bits=3
fqtc study bits tiny.fqt --budget 4 gradients.pre=row
# A mistake at some of the bits only; parameters that not all of the bits have.
sed 's/use recipe plain/& at gbits <= 4 { quantize gradients of nowhere with stochastic }/' tiny.fqt > at.fqt
fqtc study bits at.fqt --budget 4
rules='quantize weights with max_abs quantize activations with running_max quantize gradients with nearest'
sed "s/use recipe plain/$rules at wbits <= 4 { quantize activations with pact }/" tiny.fqt > at.fqt
fqtc study bits at.fqt --budget 8 --choose weights
rm at.fqt
fqtc study bits tiny.fqt --budget 4 --data nowhere
fqtc study bits tiny.fqt --budget 4 --write nowhere/chosen.fqt
rm -r tiny.fqt runs
