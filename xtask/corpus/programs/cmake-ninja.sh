#!/bin/bash
# what: cmake with ninja: configure, build a library and a program, run its tests, install, rebuild after a change
# image: toolchain
# weight: heavy
# files: src prefix
mkdir -p src/lib && cd src || exit 1
for i in 1 2 3 4 5 6; do echo "int part$i(int x) { return x * $i + 1; }" > lib/p$i.c; done
printf 'int part1(int); int part6(int);\n#include <cstdio>\n#include <vector>\n#include <numeric>\n#include "config.h"\nextern "C" { int part1(int); int part6(int); }\nint main(int n, char**) { std::vector<int> v(100); std::iota(v.begin(), v.end(), n); std::printf("%%d %%d %%s\\n", std::accumulate(v.begin(), v.end(), 0), n, NAME); return n == 3; }\n' | sed 1d > main.cpp
echo '#define NAME "@PROJECT_NAME@ @CMAKE_SIZEOF_VOID_P@"' > config.h.in
cat > CMakeLists.txt <<'C'
cmake_minimum_required(VERSION 3.20)
project(demo C CXX)
include(CheckFunctionExists)
include(CTest)
check_function_exists(fork HAVE_FORK)
message(STATUS "fork ${HAVE_FORK}")
configure_file(config.h.in config.h)
file(GLOB PARTS CONFIGURE_DEPENDS lib/*.c)
add_library(parts SHARED ${PARTS})
add_executable(program main.cpp)
target_include_directories(program PRIVATE ${CMAKE_CURRENT_BINARY_DIR})
target_link_libraries(program parts)
foreach(n RANGE 1 4)
  add_test(NAME t${n} COMMAND program ${n})
endforeach()
add_test(NAME fails COMMAND program a b)
set_tests_properties(fails PROPERTIES WILL_FAIL TRUE)
install(TARGETS program parts)
C
cmake -G Ninja -S . -B ../build -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$PWD/../prefix" > ../log 2>&1; echo "configure $?"; grep -v -E 'ABI|Check for working|Configuring done|Generating done|Detecting' ../log; ninja -C ../build -j2 > ../log; echo "build $?"; sed -E 's/^\[[0-9/]+\] //' ../log | grep -c -E 'Building|Linking'
cd ../build; ctest -j2 2>&1 | sed -E 's/ +[0-9.]+ sec//; s/^ *[0-9]+\/[0-9]+ //' | grep -E 'Passed|tests passed|Failed' | sort; ninja install > /dev/null; ../prefix/bin/program x; ninja -n | tail -n 1; touch -d '1 minute' ../src/lib/p3.c; ninja -n | grep -c Building; cmake --version | head -n 1; cmake -E sha256sum lib*.so
