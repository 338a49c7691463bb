"""The native helper: what pyproject.toml cannot say (a cffi build script, the abi3 wheel tag)."""

from setuptools import setup

setup(
    cffi_modules=["probes/build_ffi.py:ffibuilder"],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
