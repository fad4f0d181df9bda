"""Makes `import torch` work without the wheel's CUDA libraries, for the CPU alone. usage: cuda_stand_ins.py LIBTORCH_FOLDER OUT_FOLDER

The Python half of the PyTorch wheel is linked to some 4 GB of CUDA libraries that nothing on a CPU calls. This writes a library of the same name for each one that
is missing; all of them lead to one that defines every missing symbol as a function that aborts. Use: LD_LIBRARY_PATH=OUT_FOLDER.
"""
import pathlib
import re
import subprocess
import sys

# Linked to CUDA; all other libraries of the wheel are complete.
LINKED_TO_CUDA = ["libtorch_cuda.so", "libtorch_python.so", "libtorch_nvshmem.so", "libc10_cuda.so", "libtorch.so"]
CUDA_LIBRARY = re.compile(r"^lib(cu|nccl|nv)")
CUDA_SYMBOL = re.compile(r"^(cu|nccl|nvshmem)")


def needed(library):
    text = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"NEEDED.*\[(.*)\]", text))


def symbols(library, which):
    text = subprocess.run(["nm", "-D", which, library], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in text.splitlines() if line.strip()}


def main():
    root, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    present = [path for folder in (root / "torch/lib", root / "nvidia/cu13/lib") for path in folder.glob("*.so*")]
    linked = [root / "torch/lib" / name for name in LINKED_TO_CUDA]
    have = {path.name for path in present}
    missing_libraries = sorted(name for path in linked for name in needed(path) if name not in have and CUDA_LIBRARY.match(name))
    defined = set().union(*(symbols(path, "--defined-only") for path in present))
    undefined = set().union(*(symbols(path, "--undefined-only") for path in linked))
    missing_symbols = sorted(name for name in undefined - defined if CUDA_SYMBOL.match(name))

    source = out / "stand_in.c"
    source.write_text("#include <stdlib.h>\n" + "".join(f"void {name}(void) {{ abort(); }}\n" for name in missing_symbols))
    gcc = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin"]
    subprocess.run([*gcc, "-o", out / "libstand_in.so", source], check=True)
    for name in missing_libraries:
        subprocess.run([*gcc, f"-Wl,-soname,{name}", "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN", "-o", out / name, f"-L{out}", "-lstand_in"], check=True)
    (out / "complete").write_text(f"{len(missing_libraries)} libraries, {len(missing_symbols)} symbols\n")


main()
