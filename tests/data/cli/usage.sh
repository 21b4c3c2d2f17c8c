# Requests that make no sense.
fqtc nonsense
fqtc list nonsense
fqtc explain stochastik
fqtc explain nonsense
fqtc explain e0301
fqtc explain sample
fqtc train
fqtc train nowhere.fqt
fqtc train .
fqtc train model.fqt --threads 0
fqtc train model.fqt --name ../elsewhere
fqtc train model.fqt --force --resume
fqtc eval nowhere.fqt

# Text that cannot be written is a failure, a reader that goes away is none.
"$FQTC" list quantizers > /dev/full
echo "exit $?"
