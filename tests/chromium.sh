#!/bin/sh
# A Chromium for the tests of pages: Debian's, installed where there is none and we may. Without one these tests are
# skipped and say so; this script never fails.
for name in chromium chromium-browser google-chrome chrome; do
    command -v "$name" > /dev/null && exit 0
done
[ -n "$KOPT_CHROMIUM" ] && exit 0
command -v apt-get > /dev/null || { echo "no Chromium and no apt-get: the tests of pages will be skipped"; exit 0; }
as_root=
if [ "$(id -u)" != 0 ]; then
    sudo -n true 2> /dev/null || { echo "no Chromium: apt-get install chromium, or the tests of pages are skipped"; exit 0; }
    as_root="sudo -n"
fi
echo "installing Chromium for the tests of pages"
{ $as_root apt-get update -q && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium; } \
    > /dev/null 2>&1 || echo "Chromium could not be installed: the tests of pages will be skipped"
exit 0
