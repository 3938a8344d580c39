#!/bin/bash
# what: heavy C++ templates with g++ -O2: compile-time sorting and primes, regex, ranges, exceptions, threads
# image: toolchain
# weight: heavy
# files: t.cpp t
cat > t.cpp <<'C'
#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <ranges>
#include <regex>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <unordered_map>
#include <variant>
#include <vector>
template <int N> struct Fib { static constexpr long v = Fib<N - 1>::v + Fib<N - 2>::v; };
template <> struct Fib<0> { static constexpr long v = 0; };
template <> struct Fib<1> { static constexpr long v = 1; };
template <typename... T> struct Many { std::tuple<T...> t; auto sum() const { return std::apply([](auto... x) { return (x + ...); }, t); } };
template <std::size_t N> constexpr auto sorted() { std::array<unsigned, N> a{}; unsigned x = 1; for (auto &e : a) e = x = x * 1103515245u + 12345u; std::sort(a.begin(), a.end()); return a; }
template <std::size_t... I> long depth(std::index_sequence<I...>) { return (Fib<I % 80>::v + ...); }
using V = std::variant<int, std::string, std::vector<double>>;
int level(int n) { struct D { int &c; ~D() { ++c; } }; static int c = 0; D d{c}; if (n == 0) throw std::runtime_error("deep"); try { return level(n - 1); } catch (std::logic_error &) { return 0; } }
int main() {
  constexpr auto a = sorted<500>(); std::cout << a[0] << ' ' << a[499] << ' ' << depth(std::make_index_sequence<200>()) << '\n';
  Many<int, long, double> m{{1, 2, 3.5}}; std::cout << m.sum() << '\n';
  std::regex r("(\\w+)@(\\w+)\\.com"); std::string s = "a@b.com, cc@dd.com, x@y.org"; std::cout << std::distance(std::sregex_iterator(s.begin(), s.end(), r), std::sregex_iterator()) << '\n';
  std::map<std::string, std::unordered_map<int, std::unique_ptr<V>>> big; for (int i = 0; i < 5000; ++i) big["k" + std::to_string(i % 97)][i] = std::make_unique<V>(i % 2 ? V(i) : V(std::string(i % 13, 'x')));
  long total = 0; for (auto &[k, in] : big) for (auto &[i, v] : in) total += std::visit([](auto &x) -> long { if constexpr (std::is_same_v<std::decay_t<decltype(x)>, int>) return x; else return x.size(); }, *v);
  std::cout << total << '\n';
  auto e = std::views::iota(1, 1000) | std::views::filter([](int x) { return x % 7 == 0; }) | std::views::transform([](int x) { return x * x; }); long q = 0; for (long x : e) q += x; std::cout << q << '\n';
  try { level(200); } catch (std::exception &x) { std::cout << x.what() << '\n'; }
  std::atomic<long> n{0}; std::vector<std::thread> ts; for (int i = 0; i < 40; ++i) ts.emplace_back([&, i] { for (int j = 0; j < 1000; ++j) { try { if (j % 100 == 0) throw i; n += 1; } catch (int x) { n += x; } } }); for (auto &t : ts) t.join(); std::cout << n << '\n';
  std::vector<std::future<int>> f; for (int i = 0; i < 10; ++i) f.push_back(std::async(std::launch::async, [i] { return i * i; })); int z = 0; for (auto &x : f) z += x.get(); std::cout << z << '\n';
  return 7;
}
C
g++ -std=c++20 -O2 -pthread -fno-ident -o t t.cpp; echo "g++ $?"; ./t; echo "status $?"
