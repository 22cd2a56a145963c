#!/bin/sh
# Runs the inference tests where only tflite-runtime with numpy 1 is installed, as on 32-bit
# Raspberry Pi OS. Needs Python 3.11 (the last one with a wheel): PYTHON names it if it is not
# python3.11. The environment is made once, in .venv-tflite.
set -eu
cd "$(dirname "$0")/.."
environment=.venv-tflite
if ! [ -e "$environment/ready" ]; then
    "${PYTHON:-python3.11}" -m venv --clear "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check \
        tflite-runtime==2.14.0 numpy==1.26.4 msgspec==0.22.0 \
        pytest==9.2.0 pytest-timeout==2.4.0 pytest-xdist==3.8.0
    touch "$environment/ready"
fi
# --confcutdir: the conftest of all other tests needs what is not installed here.
# -m "": also those that are only true here.
PYTHONPATH=. exec "$environment/bin/python" -m pytest --confcutdir=tests/infer -p no:cacheprovider \
    -m "" "$@" tests/infer/test_infer_*.py
