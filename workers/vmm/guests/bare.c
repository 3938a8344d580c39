// A kernel of a page: what the VMM does with guests that are no Linux. Built without libraries, loaded at 1 MiB, entered with
// the boot parameters' address in RSI; what to do comes by the command line (test=NAME).
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long u64;

__asm__(".globl _start\n_start: mov $0x80000, %rsp\n mov %rsi, %rdi\n call begin\n1: hlt\n jmp 1b\n");

static void out(u16 port, u8 x) { __asm__ volatile("outb %0, %1" :: "a"(x), "Nd"(port)); }
static void out32(u16 port, u32 x) { __asm__ volatile("outl %0, %1" :: "a"(x), "Nd"(port)); }
static u32 in32(u16 port) { u32 x; __asm__ volatile("inl %1, %0" : "=a"(x) : "Nd"(port)); return x; }
static void say(const char *s) { while (*s) out(0x3f8, *s++); }
static void reset(void) { out(0x64, 0xfe); }
static int is(const char *at, const char *name) { while (*name) if (*at++ != *name++) return 0; return *at <= ' '; }

// The devices' registers lie beyond the GiB that is mapped: a table of 2 MiB pages of its own.
static void map_devices(void) {
    u64 *pdpt = (u64 *)0xa000, *pd = (u64 *)0xc000;
    for (u64 i = 0; i < 512; i++) pd[i] = (0xc0000000ul + (i << 21)) | 0x93;
    pdpt[3] = 0xc000 | 3;
    __asm__ volatile("mov %%cr3, %%rax\n mov %%rax, %%cr3" ::: "rax", "memory");
}

static u32 seed = 12345;
static u32 next(void) { return seed = seed * 1103515245 + 12345; }

// Every register of every device, in every width and in no order; then every port but those that reset.
static void garbage(void) {
    map_devices();
    for (int i = 0; i < 3000; i++) {
        u32 a = next(), b = next(); u64 at = 0xd0000000ul + (a >> 28 << 12) + (a >> 8 & (a & 1 ? 0x1ff : 0xff)); u32 value = b & 1 ? b >> 4 : 1u << (b >> 20 & 31);
        switch (b >> 28 & 7) {
            case 0: *(volatile u8 *)at = value; break;
            case 1: *(volatile u16 *)at = value; break;
            case 2: *(volatile u64 *)(at & ~7ul) = value; break;
            case 3: value ^= *(volatile u32 *)(at & ~3ul); break;
            default: *(volatile u32 *)(at & ~3ul) = value;
        }
    }
    for (int i = 0; i < 1000; i++) {
        u32 a = next(); u16 port = a >> 8 & 0x3ff;
        if (port >= 0x61 && port <= 0x64) continue;
        if (a & 1) out32(port, a); else (void)in32(port);
    }
    say("\ngarbage survived\n");
}

// A driver that starts the first device as it should be, over rings that lie in themselves, and lets it run.
static void rings(void) {
    volatile u32 *r = (volatile u32 *)0xd0000000ul;
    map_devices();
    for (int turn = 0; turn < 40; turn++) {
        u32 *ring = (u32 *)0x200000;
        for (int i = 0; i < 512; i++) ring[i] = next() >> (next() & 15);
        ((u16 *)0x200402)[0] = turn & 3 ? 8 : next();
        r[0x70 / 4] = 0; r[0x70 / 4] = 1; r[0x70 / 4] = 3; r[0x24 / 4] = 1; r[0x20 / 4] = 1; r[0x70 / 4] = 11;
        r[0x30 / 4] = 0; r[0x38 / 4] = 64;
        r[0x80 / 4] = 0x200000; r[0x84 / 4] = 0; r[0x90 / 4] = 0x200400; r[0x94 / 4] = 0; r[0xa0 / 4] = turn & 1 ? 0x200000 : 0x201000; r[0xa4 / 4] = 0;
        r[0x44 / 4] = 1; r[0x70 / 4] = 15;
        for (int i = 0; i < 4; i++) { r[0x50 / 4] = i; ring[next() & 511] = next(); }
    }
    say("rings survived\n");
}

void begin(const u8 *parameters) {
    const char *line = (const char *)(u64) * (const u32 *)(parameters + 0x228), *test = line;
    while (*line) { if (line[0] == 't' && line[1] == 'e' && line[2] == 's' && line[3] == 't' && line[4] == '=') test = line + 5; line++; }
    say("bare guest\n");
    if (is(test, "garbage")) garbage();
    if (is(test, "rings")) rings();
    if (is(test, "chatter")) for (;;) say("chatter chatter chatter\n");
    if (is(test, "hang")) for (;;) __asm__ volatile("pause");
    if (is(test, "halt")) for (;;) __asm__ volatile("cli\n hlt");
    if (is(test, "triple")) { struct __attribute__((packed)) { u16 n; u64 at; } none = { 0, 0 }; __asm__ volatile("lidt %0\n int3" :: "m"(none)); }
    if (is(test, "beyond")) { map_devices(); *(volatile u32 *)0xe0000000ul = 1; say(*(volatile u32 *)0xe0000000ul == ~0u ? "nothing there\n" : "something there\n"); }
    reset();
}
