"""Compares the evaluation pixels of image folders with torchvision's transforms over Pillow. usage: compare_with_torchvision.py DUMP_PROGRAM SAMPLE_FOLDER

SAMPLE_FOLDER: the folder imagenet_sample of the project's test data. Ends with 77 (skipped) where it, or torchvision, is not there.
"""
import collections
import pathlib
import subprocess
import sys

SKIPPED = 77
BOUND = 2 / 255  # of the mean absolute difference of an image
SETS = ['imagenette224/val', 'imagenette224/train', 'fullres_one_per_class']


def skip(why):
    print('skipped:', why)
    sys.exit(SKIPPED)


def main():
    program, sample = sys.argv[1], pathlib.Path(sys.argv[2])
    if not all((sample / name).is_dir() for name in SETS):
        skip(f'no ImageNet sample in {sample} (BITSTAIR_TEST_DATA names the folder that holds imagenet_sample)')
    try:
        import numpy
        import torchvision
        from PIL import Image
    except ImportError as error:
        skip(f'no torchvision and Pillow (./dev test fetches them): {error}')
    from torchvision import transforms
    transform = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    failed = False
    for name in SETS:
        classes = torchvision.datasets.folder.find_classes(sample / name)[1]
        process = subprocess.Popen([program, sample / name], stdout=subprocess.PIPE)
        differences, largest = collections.defaultdict(list), 0
        while line := process.stdout.readline():
            path, label = line.decode().rsplit(' ', 1)
            ours = numpy.frombuffer(process.stdout.read(3 * 224 * 224), dtype=numpy.uint8).reshape(3, 224, 224).astype(int)
            image = Image.open(path)
            kind = image.mode
            theirs = numpy.asarray(transform(image.convert('RGB'))).transpose(2, 0, 1).astype(int)
            difference = numpy.abs(ours - theirs).mean() / 255
            differences[kind].append(difference)
            largest = max(largest, int(numpy.abs(ours - theirs).max()))
            if difference > BOUND or int(label) != classes[pathlib.Path(path).parent.name]:
                print(f'{path} ({kind}): mean difference {255 * difference:.3f}/255, label {label.strip()}')
                failed = True
        failed |= process.wait() != 0
        count = sum(map(len, differences.values()))
        files = sum(1 for path in (sample / name).glob('*/*'))
        if count != files:
            print(f'{name}: {count} images of {files}')
            failed = True
        for kind, values in sorted(differences.items()):
            print(f'{name} {kind}: {len(values)} images, mean difference at most {255 * max(values):.3f}/255, of all {255 * sum(values) / len(values):.4f}/255, '
                  f'largest of a pixel {largest}')
    sys.exit(failed)


main()
