#!/bin/bash
# what: perl: regular expressions, fork and pipes, signals, sockets, file tests, sorting, alarm
# image: toolchain
# weight: light
# files: out.txt
cat > p.pl <<'PL'
use strict; use warnings; use Socket; use POSIX qw(:sys_wait_h); use Digest::SHA qw(sha256_hex); use File::Find; use IO::Handle; use Time::HiRes qw(usleep);
my %c; $c{length $_}++ for map { $_ x ($_ % 17) } 1..2000; print join(",", map { "$_=$c{$_}" } sort { $a <=> $b } keys %c), "\n";
my @kids; for my $n (1..10) { pipe(my $r, my $w) or die; my $p = fork; if (!$p) { close $r; print $w sha256_hex($n); close $w; exit $n } close $w; push @kids, [$p, $r] }
for (@kids) { my ($p, $r) = @$_; my $t = <$r>; waitpid $p, 0; print $t, " ", $? >> 8, "\n" }
{ local $SIG{ALRM} = sub { die "alarm\n" }; alarm 1; eval { select undef, undef, undef, 10 }; print "got $@"; alarm 0 }
my $got = 0; local $SIG{USR1} = sub { $got++ }; kill USR1 => $$ for 1..5; print "usr1 ", $got > 0 ? "yes" : "no", "\n";
socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die; if (!fork) { close $a; while (<$b>) { print $b uc; $b->flush } exit 0 } close $b; print $a "hello $_\n" and $a->flush and print scalar <$a> for 1..3; close $a; wait;
open my $o, '>', 'out.txt' or die; print $o "line $_\n" for 1..5000; close $o; open $o, '<', 'out.txt'; my @l = sort { $b cmp $a } <$o>; print scalar(@l), " $l[0]"; print -s 'out.txt', " ", -e 'none' ? 1 : 0, "\n";
my $x = `echo sub; exit 3`; print $x, $? >> 8, "\n"; open my $s, '-|', 'sort -n' , or die; close $s; system('kill -9 $$'); print $? & 127, "\n"; my @f; find(sub { push @f, $File::Find::name if /Sha|SHA/ }, '/usr/share/perl', '/usr/lib/x86_64-linux-gnu/perl'); print scalar(@f) > 1 ? "found\n" : "none\n";
my $text = join '', map { chr(97 + $_ * 7 % 26) } 1..100000; my $n = () = $text =~ /(a.c|h[^o]v)/g; print "$n\n"; printf "%s\n", sha256_hex(join "", sort { $a cmp $b } split //, $text); exit 6;
PL
perl p.pl
