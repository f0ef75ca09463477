"""Builds the compiled frame codec where a C compiler is at hand; everything else is declared in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        # optional: without a compiler the install goes on and the pure-Python twin serves.
        Extension(
            "gateway.protocol._frames", ["gateway/protocol/_frames.pyx"], extra_compile_args=["-O3"], optional=True
        )
    ]
)
