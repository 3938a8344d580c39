#!/bin/bash
# what: ImageMagick with two threads: generate, blur, resize, compose, convert between formats, compare
# image: data
# weight: heavy
# files: g.ppm small.bmp m.ppm
export MAGICK_THREAD_LIMIT=2
convert -size 600x400 gradient:red-blue g.ppm; convert g.ppm -blur 0x4 -resize 50% -rotate 30 small.bmp; convert -size 300x300 plasma:fractal -seed 5 p.miff; convert -seed 7 -size 200x200 xc:gray +noise Gaussian -colorspace Gray n.pgm; identify -format '%w %h %m\n' g.ppm small.bmp
montage g.ppm small.bmp g.ppm -geometry 100x100+2+2 -tile 3x1 m.ppm 2>&1; convert g.ppm g.png; convert g.png -strip ppm:- | sha256sum; convert g.ppm -quality 80 ppm:- | sha256sum; compare -metric AE g.ppm g.png null: 2>&1; echo " $?"; convert g.ppm -fft null: 2>/dev/null; convert g.ppm -morphology Dilate Octagon:3 -edge 2 -negate ppm:- | sha256sum; convert none.png x.png 2>&1 | head -n 1; convert g.ppm -crop 100x100 +repage t%02d.gif; ls t*.gif | wc -l; mogrify -flip g.ppm; sha256sum g.ppm
