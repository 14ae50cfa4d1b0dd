#!/usr/bin/env bash
# The ffmpeg command line on the libraries inside PyAV's wheel, so that a benchmark compares programs, not encoders.
#
#   bench/support/ffmpeg_of_pyav.sh SOURCE PYTHON TARGET
#
# SOURCE: FFmpeg's source, unpacked, of the version in the wheel (PyAV 19.0: FFmpeg 9.0.2; PYTHON -m av --version tells
# libavcodec's). PYTHON: that of the virtual environment with PyAV. TARGET: the program to write. Needs gcc and make.
# Compiles the command line alone; its libraries are looked for where the wheel has them.
set -euo pipefail

[ $# = 3 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
target="$(realpath "$3")"
libs="$("$2" -c 'import av, pathlib; print(pathlib.Path(av.__file__).parents[1] / "av.libs")')"
cd "$1"

# Components do not matter, as no library is compiled; only headers and config.h are wanted.
[ -f ffbuild/config.mak ] || ./configure --enable-gpl --enable-shared --disable-static --disable-doc --disable-x86asm \
    --disable-autodetect --disable-ffplay --disable-ffprobe --enable-avdevice
objects="$(sed -n '/^OBJS-ffmpeg +=/,/RESOBJS/p;/^OBJS-ffprobe/q' fftools/Makefile | grep -oE 'fftools/[a-z_/]+\.o')"
objects="$(printf '%s\n' $objects fftools/cmdutils.o fftools/opt_common.o fftools/ffmpeg.o \
    fftools/resources/{resman,graph.html,graph.css}.o | grep -vE 'ffprobe|ffplay|fftoolsres' | sort -u)"
# shellcheck disable=SC2086  # a list of files
make -j"$(nproc)" $objects

linked=()
for name in avdevice avfilter avformat avcodec swresample swscale avutil; do
    linked+=("$(ls "$libs"/lib$name-*.so.*)")
done
# shellcheck disable=SC2086
gcc -o "$target" $objects "${linked[@]}" -Wl,--disable-new-dtags,-rpath,"$libs" -Wl,-rpath-link,"$libs" \
    -Wl,--allow-shlib-undefined -lm -lpthread
"$target" -hide_banner -version | head -1
