#!/bin/bash
# what: python3: a venv, pip install of local wheels and of a source tree, entry points, compileall, zipapp
# image: toolchain
# weight: heavy
# files: wheels/unpacked
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INDEX=1 SOURCE_DATE_EPOCH=315619200
mkdir -p src/alpha src2/beta wheels
echo 'def f(x): return x * 2' > src/alpha/__init__.py; printf 'import alpha\ndef main(): print("beta", alpha.f(21))\n' > src2/beta/__init__.py
printf 'from setuptools import setup\nsetup(name="alpha", version="1.0", packages=["alpha"])\n' > src/setup.py
printf 'from setuptools import setup\nsetup(name="beta", version="2.0", packages=["beta"], install_requires=["alpha>=1"], entry_points={"console_scripts": ["beta=beta:main"]})\n' > src2/setup.py
python3 -m venv env; echo "venv $?"; . env/bin/activate; python -m pip --version | cut -d' ' -f 1,2
(cd src && /usr/bin/python3 setup.py -q bdist_wheel -d ../wheels 2>/dev/null); echo "wheel $?"; (cd src2 && /usr/bin/python3 setup.py -q bdist_wheel -d ../wheels 2>/dev/null); ls wheels
pip install -q --find-links wheels beta; echo "install $?"; beta; pip list --format=freeze | grep -E 'alpha|beta'; pip check; pip show -f beta | grep -v -i location; pip install -q nothing 2>&1 | tail -n 1; pip uninstall -q -y beta; beta 2>&1 | tail -n 1
mkdir wheels/unpacked; python -m zipfile -e wheels/alpha*.whl wheels/unpacked; python -m compileall -q env/lib/python3*/site-packages/pip; echo "compileall $?"; find env -name '*.py' | sed 's/.*site-packages//' | LC_ALL=C sort | sha256sum; mkdir z; printf 'import sys; print("zipapp", len(sys.argv)); sys.exit(4)\n' > z/__main__.py; python -m zipapp z -o z.pyz; python z.pyz a b; echo $?; python -c 'import sys; print(sys.prefix, sys.base_prefix)'
