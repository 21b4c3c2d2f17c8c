# Data sets that are missing, no data sets, or broken.
fqtc data info
fqtc data info cifar10
fqtc data info cifar11
fqtc data info ./nowhere
fqtc data fetch cifar11

mkdir empty && fqtc data info empty
echo text > file && fqtc data info ./file

# A training file that ends too early.
mkdir short && head -c 5000 /dev/zero > short/data_batch_1.bin
fqtc data info short

# Labels that are not classes.
mkdir labels
for part in data_batch_1 data_batch_2 data_batch_3 data_batch_4 data_batch_5 test_batch; do
  head -c 3073 /dev/zero | tr '\0' '\113' > labels/$part.bin
done
fqtc data info labels

# A header that promises more than the file holds.
mkdir idx && printf '\0\0\010\003\377\377\377\377\0\0\0\034\0\0\0\034' > idx/train-images-idx3-ubyte
cp idx/train-images-idx3-ubyte idx/t10k-images-idx3-ubyte
printf '\0\0\010\001\0\0\0\001\0' > idx/train-labels-idx1-ubyte
cp idx/train-labels-idx1-ubyte idx/t10k-labels-idx1-ubyte
fqtc data info idx

# Compressed images that end too early.
mkdir gz && head -c 2000 "$REPO/models/data/fashion_sample/train-images-idx3-ubyte.gz" > gz/train-images-idx3-ubyte.gz
cp "$REPO"/models/data/fashion_sample/*labels* "$REPO"/models/data/fashion_sample/t10k-images* gz
fqtc data info gz

# A folder that exists is never touched.
mkdir -p data/mnist && echo mine > data/mnist/train-images-idx3-ubyte
fqtc data fetch mnist

# A place that cannot be written to.
fqtc data fetch mnist --to file
