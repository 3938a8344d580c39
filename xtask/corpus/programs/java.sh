#!/bin/bash
# what: javac and java: threads, GC under the memory limit, implicit null checks, ProcessBuilder, files, a stack overflow
# image: languages
# weight: heavy
# memory: 1G
# timeout: 240
# files: J.java out
cat > J.java <<'J'
import java.nio.file.*; import java.security.*; import java.util.*; import java.util.concurrent.*; import java.util.concurrent.atomic.*; import java.util.stream.*;
public class J {
  static int depth(int n) { return n == 0 ? 0 : 1 + depth(n - 1); }
  static int forever(int n) { return 1 + forever(n + 1); }
  record P(int a, String b) {}
  static class N { int x; N next; }
  static String sha(byte[] b) throws Exception { return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(b)); }
  public static void main(String[] v) throws Exception {
    ExecutorService e = Executors.newFixedThreadPool(8); List<Future<Long>> f = new ArrayList<>(); for (int i = 0; i < 64; i++) { int n = i; f.add(e.submit(() -> { long s = 0; for (int j = 0; j < 300000; j++) s = s * 31 + j * n; return s; })); } long t = 0; for (var x : f) t ^= x.get(); e.shutdown(); System.out.println(t + " " + e.awaitTermination(10, TimeUnit.SECONDS));
    long live = 0; List<byte[]> keep = new LinkedList<>(); for (int i = 0; i < 6000; i++) { keep.add(new byte[200_000]); if (keep.size() > 200) live += keep.remove(0).length; } System.out.println(live);
    int caught = 0; for (int i = 0; i < 30000; i++) { try { N n = i % 3 == 0 ? null : new N(); n.x++; } catch (NullPointerException x) { caught++; } } System.out.println(caught);
    try { forever(0); } catch (StackOverflowError x) { System.out.println("overflow"); } System.out.println(depth(3000)); try { System.out.println(1 / (v.length)); } catch (ArithmeticException x) { System.out.println(x.getMessage()); }
    Process p = new ProcessBuilder("sh", "-c", "cat; echo err >&2; exit 7").start(); p.getOutputStream().write("input\n".getBytes()); p.getOutputStream().close(); System.out.print(new String(p.getInputStream().readAllBytes()) + new String(p.getErrorStream().readAllBytes())); System.out.println(p.waitFor());
    Path d = Files.createDirectory(Path.of("out")); for (int i = 0; i < 100; i++) Files.writeString(d.resolve("f" + i), "x".repeat(i * 10)); try (var s = Files.walk(d)) { System.out.println(s.filter(Files::isRegularFile).mapToLong(q -> q.toFile().length()).sum()); } Files.move(d.resolve("f1"), d.resolve("g1"), StandardCopyOption.ATOMIC_MOVE); try (var c = java.nio.channels.FileChannel.open(d.resolve("m"), StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE)) { var m = c.map(java.nio.channels.FileChannel.MapMode.READ_WRITE, 0, 5000); m.put(4000, (byte) 7); m.force(); System.out.println(c.size() + " " + c.tryLock().isValid()); }
    System.out.println(IntStream.range(0, 500000).parallel().mapToObj(i -> new P(i, "k" + i % 100)).collect(Collectors.groupingByConcurrent(P::b, Collectors.summingLong(P::a))).values().stream().mapToLong(x -> x).sum()); CompletableFuture<Integer> cf = CompletableFuture.supplyAsync(() -> 20).thenCombine(CompletableFuture.supplyAsync(() -> 22), Integer::sum); System.out.println(cf.get()); AtomicInteger n = new AtomicInteger(); Thread[] ts = new Thread[100]; for (int i = 0; i < 100; i++) { ts[i] = new Thread(() -> { for (int j = 0; j < 1000; j++) n.incrementAndGet(); synchronized (n) { n.notifyAll(); } }); ts[i].start(); } for (Thread x : ts) x.join(); System.out.println(n); ScheduledExecutorService se = Executors.newScheduledThreadPool(1); System.out.println(se.schedule(() -> "later", 30, TimeUnit.MILLISECONDS).get()); se.shutdownNow(); System.out.println(Runtime.getRuntime().availableProcessors()); System.out.println(sha(String.join(",", new TreeSet<>(Arrays.asList("b", "a"))).getBytes())); Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook"))); System.exit(3);
  }
}
J
javac -Xlint:-options J.java; echo "javac $?"; java J; echo "status $?"; java -Xmx64m -XX:+UseSerialGC J | sha256sum; java -XX:+UseG1GC -Xmx200m J | head -n 3; java -Xint -Xmx100m J | tail -n 2; echo 'class T { public static void main(String[] a) throws Exception { Thread.sleep(60000); } }' > T.java; javac T.java; java T & p=$!; sleep 2; kill -TERM $p; wait $p; echo "term $?"; echo 'class O { public static void main(String[] a) { var l = new java.util.ArrayList<byte[]>(); while (true) l.add(new byte[1 << 20]); } }' > O.java; javac O.java; java -Xmx40m O 2>&1 | head -n 1; jar --create --file j.jar --main-class J ./*.class 2>&1; jar -tf j.jar | wc -l; rm -rf out; java -jar j.jar | head -n 2
