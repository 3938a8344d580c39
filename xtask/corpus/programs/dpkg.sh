#!/bin/bash
# what: dpkg-deb builds a local package with maintainer scripts; dpkg -i, queries, upgrade, removal, purge
# image: toolchain
# weight: light
# files: /opt/demo /etc/demo.conf
umask 022; build() { mkdir -p p/DEBIAN p/opt/demo p/etc p/usr/bin; for i in $(seq 1 50); do seq 1 "$i" > "p/opt/demo/f$i"; done; echo "version $1" > p/etc/demo.conf; printf '#!/bin/sh\necho demo %s\n' "$1" > p/usr/bin/demo; chmod 755 p/usr/bin/demo; ln -sf f1 p/opt/demo/link
printf 'Package: demo\nVersion: %s\nArchitecture: all\nMaintainer: x <x@y>\nDescription: d\n' "$1" > p/DEBIAN/control; echo /etc/demo.conf > p/DEBIAN/conffiles; printf '#!/bin/sh\necho "postinst $*"\n' > p/DEBIAN/postinst; printf '#!/bin/sh\necho "prerm $*"\n' > p/DEBIAN/prerm; chmod 755 p/DEBIAN/p*; SOURCE_DATE_EPOCH=1 dpkg-deb --root-owner-group -b p "demo_$1.deb"; }
build 1.0; build 2.0; dpkg -c demo_1.0.deb | sha256sum; dpkg -i demo_1.0.deb; demo; dpkg -s demo | grep -E '^(Status|Version)'; dpkg -L demo | sha256sum; dpkg -S /opt/demo/f7; dpkg -V demo; echo x >> /opt/demo/f9; dpkg -V demo; dpkg -i demo_2.0.deb; demo; dpkg -l demo | tail -n 1; dpkg -r demo; ls /etc/demo.conf; dpkg -P demo; ls /opt/demo 2>&1; dpkg -i none.deb 2>&1; echo $?; dpkg -i demo_1.0.deb > /dev/null; dpkg --audit; dpkg --compare-versions 1.0 lt 2.0 && echo older
