#!/bin/bash
# what: npm pack, npm install from a local tarball, npm test and scripts, npm ci from the lock file
# image: languages
# weight: heavy
# files: app/package-lock.json app/node_modules
export npm_config_update_notifier=false npm_config_fund=false npm_config_audit=false npm_config_offline=true npm_config_loglevel=error
mkdir -p lib app; cd lib || exit 1
printf '{"name":"adder","version":"1.2.3","main":"i.js","bin":{"adder":"b.js"},"scripts":{"postinstall":"node -e \\"require(\047fs\047).writeFileSync(\047made\047,\047x\047)\\""}}' > package.json; echo 'module.exports = (a, b) => a + b;' > i.js; printf '#!/usr/bin/env node\nconsole.log(require("./i.js")(40, 2));\n' > b.js; chmod 755 b.js; for i in $(seq 1 40); do echo "exports.x = $i;" > "m$i.js"; done
npm pack 2>/dev/null; cd ../app; printf '{"name":"app","version":"1.0.0","scripts":{"test":"node test.js","pretest":"echo before","fails":"exit 3"},"dependencies":{}}' > package.json
npm install ../lib/adder-1.2.3.tgz 2>&1 | sed 's/ in [0-9.]*m\?s$//'; ls node_modules; printf 'const assert = require("assert"), add = require("adder");\nassert.strictEqual(add(1, 2), 3);\nconsole.log("ok", require("crypto").createHash("sha1").update(String(add(3, 4))).digest("hex"));\n' > test.js
npm test 2>&1; echo "test $?"; npm run -s fails; echo "fails $?"; npx --no-install adder; npm ls 2>&1 | tail -n +2; rm -r node_modules; npm ci 2>&1 | sed 's/ in [0-9.]*m\?s$//'; npm test -s; rm -f node_modules/.package-lock.json; npm install nothing-here 2>&1 | grep -c ERR | awk '{print ($1 > 0)}'
