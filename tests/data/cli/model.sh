# Model files that are none, or wrong.
touch empty.fqt && fqtc check empty.fqt
mkdir folder.fqt && fqtc check folder.fqt
printf 'GIF89a\001\002\003{{{{' > junk.fqt && fqtc check junk.fqt
printf 'model caf\351 { }' > latin.fqt && fqtc check latin.fqt
head -c 1000000 /dev/zero | tr '\0' '(' > parens.fqt && fqtc check parens.fqt
(printf 'model m { input image: 28x28x1 classes 10 image |> linear('; cat parens.fqt; printf ') }') > deep.fqt && fqtc check deep.fqt
head -c 2000000 /dev/zero | tr '\0' ' ' > large.fqt && fqtc check large.fqt
fqtc check /dev/zero

model() {
  printf 'model m {\n  input image: %s\n  classes 10\n  use recipe plain\n  image |> %s\n}\n' "$1" "$2" > m.fqt
  echo "# input $1, image |> $2"
  shift 2
  fqtc check m.fqt "$@"
}
model 28x28x1 'flatten |> linaer(10)'
model 28x28x1 'flatten |> linear(11)'
model 28x28x1 'conv(8, 3x3) |> linear(10)'
model 28x28x1 'conv(0, 3x3) |> flatten |> linear(10)'
model 0x28x1 'flatten |> linear(10)'
model 65536x32768x1 'flatten |> linear(10)'
model 4294967296x4294967296x3 'flatten |> linear(10)'
model 99999999999999999999x1x1 'flatten |> linear(10)'
model 28x28x1 'flatten |> linear(2147483648) |> linear(10)'
model 28x28x1 'flatten |> linear(9223372036854775807) |> linear(10)'
model 28x28x1 'flatten |> linear(1048576) |> linear(1024) |> linear(10)'
model 1024x1024x3 'global_avg_pool |> linear(10)'
model 128x128x3 'conv(4, 1x1) |> relu |> global_avg_pool |> linear(10)'
model 28x28x1 'flatten |> linear(10)' --gbits 1
model 28x28x1 'flatten |> linear(10)' --gbits 33
model 28x28x1 'flatten |> linear(10)' --wbits 1 --abits 33
model 28x28x1 'flatten |> linear(10)' --batch 0
model 28x28x1 'flatten |> linear(10)' --batch 2147483648
model 28x28x1 'flatten |> linear(10)' --epochs -1
model 28x28x1 'flatten |> linear(10)' --lr nan
model 28x28x1 'flatten |> linear(10)' --recipe bn_rectifeid
model 28x28x1 'flatten |> linear(10)' optimiser.lr=0.1
model 28x28x1 'flatten |> linear(10)' optimizer.lr
model 28x28x1 'flatten |> linear(10)' optimizer.lr=fast
rm -r ./*
