# shellcheck shell=bash
# Sourced by the other scripts: makes the virtual environment, or finds it in order. They may set
# `extras`, which are installed with the package: what its users need, or all that its developers do.
#
#   DGLREC_PYTHON  the Python 3.10 to 3.13 to make it with (default: the first that runs)
#   DGLREC_VENV    where it lies (default: .venv at the top of the checkout)

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=${DGLREC_VENV:-$root/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac
made_here=$venv/.dglrec-venv   # the mark of an environment that these scripts made
stamp=$venv/.dglrec-installed  # written last; holds the fingerprint of what was installed
dgl=1.1.3                      # as in setup.cfg
for_users=text,tune
for_developers=text,dev,docs   # `tune` is part of `dev`

say() { printf '%s\n' "$*" >&2; }

unusable() {
    say "$@"
    exit 4
}

# Succeeds where $1 runs and is a Python that dglrec is tested with. Asked, not read off the name: a
# version manager puts a python3.11 on the path that only prints an error.
is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
        >/dev/null 2>&1 </dev/null
}

can_make_environments() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 </dev/null
}

# Sets `python`.
find_python() {
    local name candidate without_venv=''
    if [ -n "${DGLREC_PYTHON:-}" ]; then
        is_supported "$DGLREC_PYTHON" ||
            unusable "DGLREC_PYTHON=$DGLREC_PYTHON does not run as Python 3.10 to 3.13."
        can_make_environments "$DGLREC_PYTHON" ||
            unusable "DGLREC_PYTHON=$DGLREC_PYTHON lacks the modules venv and ensurepip" \
                "(Debian and Ubuntu: apt install python3-venv)."
        python=$DGLREC_PYTHON
        return
    fi
    while IFS= read -r candidate; do
        is_supported "$candidate" || continue
        if can_make_environments "$candidate"; then
            python=$candidate
            return
        fi
        without_venv=${without_venv:-$candidate}
    done < <(
        for name in python3.11 python3.12 python3.13 python3.10 python3 python; do
            type -aP "$name" || true
        done
        for candidate in \
            "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.{11,12,13,10}.*/bin/python \
            "${UV_PYTHON_INSTALL_DIR:-${HOME:-}/.local/share/uv/python}"/cpython-3.{11,12,13,10}.*/bin/python3; do
            [ ! -x "$candidate" ] || printf '%s\n' "$candidate"
        done
    )
    if [ -n "$without_venv" ]; then
        unusable "$without_venv lacks the modules venv and ensurepip." \
            "On Debian and Ubuntu: apt install $("$without_venv" -c \
                'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    unusable 'No Python 3.10 to 3.13 was found, and dglrec is tested with these.
Install one, whichever way is yours:
  Debian, Ubuntu: apt install python3 python3-venv
  pyenv:          pyenv install 3.13
  uv:             uv python install 3.13
  conda:          conda create -n dglrec python=3.13 && conda activate dglrec
Then run this again. If it lies off the path: DGLREC_PYTHON=/path/to/python3.13 '"$0"
}

# Prints what the environment depends on, as one hash, by the Python $1. The checkout's place counts
# because an environment is tied to it.
fingerprint() {
    "$1" - "$root" "$venv" <<'PYTHON'
import hashlib, pathlib, sys
root, venv = sys.argv[1:]
digest = hashlib.sha256(repr((sys.version_info[:2], root, venv)).encode())
for name in "scripts/constraints.txt", "scripts/environment.sh", "setup.cfg", "pyproject.toml":
    digest.update(pathlib.Path(root, name).read_bytes())
print(digest.hexdigest())
PYTHON
}

# Whether it is of the version that DGLREC_PYTHON asks for.
is_of_asked_version() {
    local version='import sys; print(sys.version_info[:2])'
    [ -z "${DGLREC_PYTHON:-}" ] ||
        [ "$("$DGLREC_PYTHON" -c "$version" 2>&1)" = "$("$venv/bin/python" -c "$version")" ]
}

# Whether packages can go into the environment as it stands. One that these scripts made is used
# again only where its last install came to its end; what was cut short is made anew.
is_usable() {
    is_supported "$venv/bin/python" && is_of_asked_version || return 1
    if [ -e "$made_here" ]; then
        [ -f "$stamp" ] && [ -x "$venv/bin/dglrec" ]
    else
        "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null
    fi
}

# Whether the folder may be removed: these scripts made it, or nothing in it runs and it lies where
# they make theirs.
is_ours() {
    [ -e "$made_here" ] ||
        { [ -z "${DGLREC_VENV:-}" ] && ! "$venv/bin/python" -c '' 2>/dev/null; }
}

make_venv() {
    local python
    find_python
    if [ -d "$venv" ] && [ -n "$(ls -A -- "$venv")" ]; then
        is_ours || unusable "$venv exists, cannot be used, and was not made by these scripts." \
            "Remove it, or name another place with DGLREC_VENV."
        say "removing what is left of $venv"
        rm -rf -- "$venv"
    fi
    say "making the environment $venv with $python"
    mkdir -p -- "$venv"
    : >"$made_here"
    "$python" -m venv "$venv" >&2 ||
        unusable "$python could not make a virtual environment in $venv."
}

# DGL ends with a wheel for Python 3.11. All that binds it to that Python is its name: its library is
# loaded through ctypes, and takes Cython's faster way where that fits. So a later Python gets the
# same wheel under another name. Where there is none for this machine, what needs DGL is not there.
install_dgl() {
    local work wheel pip=("$venv/bin/python" -m pip)
    "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' || return 0
    if [ "$("${pip[@]}" list --format freeze 2>/dev/null | grep -c "^dgl==$dgl\$")" = 1 ]; then
        return 0
    fi
    work=$(mktemp -d)
    if "${pip[@]}" download --quiet --no-deps --python-version 3.11 --only-binary=:all: \
        --dest "$work" "dgl==$dgl"; then
        "${pip[@]}" install --quiet --constraint "$root/scripts/constraints.txt" wheel &&
            "$venv/bin/python" -m wheel tags --python-tag py3 --abi-tag none --remove \
                "$work"/dgl-*.whl &&
            wheel=$(echo "$work"/dgl-*.whl) &&
            "${pip[@]}" install --constraint "$root/scripts/constraints.txt" "$wheel" ||
            { rm -rf -- "$work"; return 1; }
    else
        say "there is no wheel of DGL for this machine: loader.kind=neighbor and cluster will not work"
    fi
    rm -rf -- "$work"
}

install() {
    local wanted installed pip
    wanted=$(fingerprint "$venv/bin/python")
    installed=$(cat -- "$stamp" 2>/dev/null) || installed=
    case $installed in
        "$wanted $extras") return 0 ;;
        "$wanted $for_developers") [ "$extras" != "$for_users" ] || return 0 ;;
    esac
    rm -f -- "$stamp"
    say 'installing the packages (about a minute; longer where torch comes with CUDA, some 3 GB)'
    pip=("$venv/bin/python" -m pip install --constraint scripts/constraints.txt)
    # Without isolation, the build takes the setuptools just installed and not the newest of the day.
    (
        cd -- "$root" &&
            "${pip[@]}" pip setuptools &&
            "${pip[@]}" --no-build-isolation --config-settings editable_mode=compat \
            --editable ".[$extras]" &&
            install_dgl
    ) >&2 || unusable \
        'pip could not install the packages; its last lines above say why. Most often the package' \
        'index is out of reach or the disk is full. Mend that and run this again.'
    printf '%s\n' "$wanted $extras" >"$stamp"
}

# A store of objects on the path, for tests; without it they are skipped, and say so.
prepare_store() {
    local place=$venv-store wanted
    wanted=$(cat -- "$root/scripts/store.txt" "$venv/pyvenv.cfg")
    if [ "$(cat -- "$place/.dglrec-installed" 2>/dev/null)" != "$wanted" ]; then
        rm -rf -- "$place"
        if ! "$venv/bin/python" -m venv "$place" >&2 ||
            ! "$place/bin/python" -m pip install --quiet --requirement "$root/scripts/store.txt" >&2; then
            say 'there will be no store of objects: its packages could not be installed'
            rm -rf -- "$place"
            return 0
        fi
        # Alone on the path: beside it lies a Python.
        mkdir -p -- "$place/path"
        ln -s -- "$place/bin/moto_server" "$place/path/moto_server"
        printf '%s\n' "$wanted" >"$place/.dglrec-installed"
    fi
    PATH=$place/path:$PATH
}

prepare_environment() {
    extras=${extras:-$for_developers}
    # One at a time: two runs at once would install over each other.
    exec 9<"$root/setup.cfg"
    if command -v flock >/dev/null; then
        # 75 is a lock held by another run; any other failure is a file system without locks.
        flock -n -E 75 9 || [ $? -ne 75 ] ||
            { say 'waiting for another run to make the environment'; flock 9; }
    fi
    is_usable || make_venv
    install
    exec 9<&-
}
