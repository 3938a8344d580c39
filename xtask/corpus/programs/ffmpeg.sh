#!/bin/bash
# what: ffmpeg on a generated clip: encode with two threads, probe, scale, extract frames and sound, concatenate
# image: data
# weight: heavy
# timeout: 240
# files: clip.mkv small.avi frames sound.wav
f() { ffmpeg -hide_banner -loglevel error -nostdin -bitexact -y "$@"; echo "ffmpeg $?"; }
f -f lavfi -i testsrc2=size=320x240:rate=15:duration=4 -f lavfi -i sine=frequency=440:duration=4 -threads 2 -c:v mpeg4 -q:v 5 -c:a pcm_s16le -flags +bitexact -fflags +bitexact clip.mkv
ffprobe -v error -show_entries stream=codec_name,width,height,nb_read_frames -count_frames -of csv clip.mkv
f -i clip.mkv -vf scale=160:120,hflip -c:v mjpeg -an -flags +bitexact -fflags +bitexact small.avi; mkdir frames; f -i clip.mkv -vf fps=2 -flags +bitexact frames/%03d.png; f -i clip.mkv -vn -flags +bitexact -fflags +bitexact sound.wav; ls frames | wc -l
printf "file clip.mkv\nfile clip.mkv\n" > list; f -f concat -i list -c copy -fflags +bitexact both.mkv; ffprobe -v error -show_entries format=duration -of csv both.mkv; ffmpeg -hide_banner -loglevel error -nostdin -i clip.mkv -f framemd5 - | sha256sum; ffmpeg -hide_banner -loglevel error -f lavfi -i testsrc=duration=1 -threads 2 -c:v libx264 -x264-params threads=2 -f null - 2>&1; echo "x264 $?"; ffmpeg -hide_banner -loglevel error -nostdin -i none.mkv x.mkv 2>&1; echo $?; ffmpeg -hide_banner -loglevel error -nostdin -f lavfi -i testsrc2=duration=1 -f rawvideo - | sha256sum
