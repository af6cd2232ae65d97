"""The fused kernels go through Triton's compiler for an H100: that needs no GPU, and the interpreter takes more."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is not installed")

PROGRAM = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from wavepos.ops.fused import kernels

SIZES = {"HEAD_DIM": 64, "BLOCK_M": 32, "BLOCK_N": 32}
FORMS = [
    {"TERM": 1, "DOCUMENTS": True, "FRONT": 2, "WINDOW": True, "GATES": False, "DLOGITS": True},
    {"TERM": 2, "DOCUMENTS": False, "FRONT": 0, "WINDOW": True, "GATES": True, "DLOGITS": True},
]


def type_of(name, form):
    if name in form:
        return "constexpr"
    if name in ("lse_ptr", "delta_ptr", "dsums_ptr", "sums_ptr") or (name == "term_ptr" and form["TERM"] == 2):
        return "*fp32"
    if name == "document_ptr":
        return "*i32"
    return "*bf16" if name.endswith("_ptr") else "fp32" if name.endswith("_scale") else "i32"


for form in FORMS:
    for kernel in (kernels.forward_kernel, kernels.dq_kernel, kernels.dkdv_kernel):
        values = {name: value for name, value in (form | SIZES).items() if name in kernel.arg_names}
        signature = {name: type_of(name, form | SIZES) for name in kernel.arg_names}
        source = ASTSource(kernel, signature, values)
        compiled = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "num_stages": 1})
        print(kernel.__name__, form, len(compiled.asm["ptx"]))
"""


def test_every_form_of_every_kernel_compiles() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 6
