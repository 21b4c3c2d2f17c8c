#!/usr/bin/env python3
"""Cut the built-in sample out of the full Fashion-MNIST files.

The sample holds the first 1,000 training images and the first 200 test images
of each of the ten classes, in the order of the original files. Running this
again writes the same bytes.

    make_sample.py /usr/share/datasets/fashion-mnist .
"""
import gzip
import hashlib
import pathlib
import struct
import sys
import zlib

SPLITS = {"train": 1000, "t10k": 200}


def idx_header(data, magic):
    """Length of the header and number of items, after checking the magic number."""
    found, count = struct.unpack(">II", data[:8])
    if found != magic:
        raise SystemExit(f"not an IDX file of the expected type: {found:#x}, not {magic:#x}")
    return (16 if magic == 0x803 else 8), count


def gz(data):
    """The gzip form of `data`, without name and time so that it is reproducible."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    body = packer.compress(data) + packer.flush()
    head = bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 2, 255])
    return head + body + struct.pack("<II", zlib.crc32(data), len(data))


def main():
    source, target = map(pathlib.Path, sys.argv[1:3])
    for split, per_class in SPLITS.items():
        images = gzip.open(source / f"{split}-images-idx3-ubyte.gz").read()
        labels = gzip.open(source / f"{split}-labels-idx1-ubyte.gz").read()
        start, count = idx_header(images, 0x803)
        first_label, label_count = idx_header(labels, 0x801)
        rows, columns = struct.unpack(">II", images[8:16])
        size = rows * columns
        if count != label_count:
            raise SystemExit(f"{split}: {count} images, but {label_count} labels")
        taken, chosen = [0] * 10, []
        for i in range(count):
            label = labels[first_label + i]
            if taken[label] < per_class:
                taken[label] += 1
                chosen.append(i)
        out_images = struct.pack(">IIII", 0x803, len(chosen), rows, columns) + b"".join(
            images[start + i * size : start + (i + 1) * size] for i in chosen
        )
        out_labels = struct.pack(">II", 0x801, len(chosen)) + bytes(
            labels[first_label + i] for i in chosen
        )
        for name, data in (("images-idx3", out_images), ("labels-idx1", out_labels)):
            path = target / f"{split}-{name}-ubyte.gz"
            path.write_bytes(gz(data))
            print(f"{path.name}  {len(data)} bytes  sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
