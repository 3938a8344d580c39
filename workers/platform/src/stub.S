# The code of a stub: position independent, no data, no stack use beyond the slot's. Numbers in braces come from
# layout.rs and wire.rs.
#
# Everything here runs under the guest's thumb: a guest may jump anywhere, unmap the page, change slot and frame
# while they are read. Nothing in the sentry depends on what this code does; it depends on what is consented to.
#
# Registers in the handler:  rbx slot   r12 ucontext to resume from   ebp order
#                            r13 r14 r15 words of the next ring: second, first (kind) and last
    .pushsection .rodata.bulkhead_stub, "a", @progbits
    .balign 16
bulkhead_stub_begin:

# ---- zygote: the program's entry. Descriptor 3 is the sentry's socket, all others but the image are closed.
    mov     ${SYS_mmap}, %eax
    movabs  ${SLOTS}, %rdi
    mov     ${SLOTS_SIZE}, %esi
    mov     $3, %edx                            # PROT_READ | PROT_WRITE
    mov     ${SLOTS_FLAGS}, %r10d
    mov     $-1, %r8
    xor     %r9d, %r9d
    syscall
    mov     %rax, %rbx
    movabs  ${SLOTS}, %rcx
    cmp     %rcx, %rbx
    jne     .Lbulkhead_die
    lea     {STACK}(%rbx), %rsp
    # Block every signal; a thread's own mask comes with the frame that it starts from.
    push    $-1
    mov     ${SYS_rt_sigprocmask}, %eax
    mov     $2, %edi                            # SIG_SETMASK
    mov     %rsp, %rsi
    xor     %edx, %edx
    mov     $8, %r10d
    syscall
    # struct sigaction, its mask (all) pushed above: handler, flags, restorer.
    lea     .Lbulkhead_resume(%rip), %rax
    push    %rax
    push    ${SIGACTION_FLAGS}
    lea     .Lbulkhead_handler(%rip), %rax
    push    %rax
    lea     .Lbulkhead_signals(%rip), %r12
1:  movzbl  (%r12), %edi
    test    %edi, %edi
    jz      2f
    mov     ${SYS_rt_sigaction}, %eax
    mov     %rsp, %rsi
    xor     %edx, %edx
    mov     $8, %r10d
    syscall
    test    %rax, %rax
    jnz     .Lbulkhead_die
    inc     %r12
    jmp     1b
2:  # Say that the zygote is ready, and then the pid (or error) of each stub that was asked for.
    push    $0
3:  mov     ${SYS_write}, %eax
    mov     $3, %edi
    mov     %rsp, %rsi
    mov     $8, %edx
    syscall
    xor     %eax, %eax                          # read
    mov     $3, %edi
    mov     %rsp, %rsi
    mov     $8, %edx
    syscall
    cmp     $8, %rax
    jne     .Lbulkhead_die
    mov     ${SYS_clone}, %eax
    mov     ${CLONE_STUB}, %edi
    xor     %esi, %esi
    xor     %edx, %edx
    xor     %r10d, %r10d
    xor     %r8d, %r8d
    syscall
    mov     %rax, (%rsp)
    test    %rax, %rax
    jnz     3b
    # ---- a new stub: its filter, whose listener becomes the lowest free descriptor (0); then wait for orders.
    mov     ${SYS_seccomp}, %eax
    mov     ${SECCOMP_SET_MODE_FILTER}, %edi
    mov     ${SECCOMP_FLAGS}, %esi
    movabs  ${FPROG}, %rdx
    syscall
    test    %rax, %rax
    jnz     .Lbulkhead_die
    lea     {SLOT_START_UC}(%rbx), %r12
    mov     ${PARK}, %r14d
    xor     %r13d, %r13d
    xor     %r15d, %r15d
    jmp     .Lbulkhead_ring

.Lbulkhead_die:
    mov     ${SYS_exit_group}, %eax
    mov     $1, %edi
    syscall
    hlt

# ---- the handler of SIGSYS (a trapped call), faults and kicks. On the slot's alternate stack, every signal blocked.
.Lbulkhead_handler:
    cld
    pushfq
    andq    $~0x40000, (%rsp)                   # AC: alignment is not checked here
    popfq
    mov     %rdi, %r14
    mov     %rsi, %r13
    mov     %rdx, %r12
    mov     %rsp, %rbx
    and     $-{SLOT_SIZE}, %rbx
    xor     %r15d, %r15d

# ---- ring the bell and do what the answer says.
.Lbulkhead_ring:
    mov     ${BELL}, %eax
    mov     %r14, %rdi
    mov     %r13, %rsi
    mov     %r12, %rdx
    rdfsbase %r10
    rdgsbase %r8
    mov     %r15, %r9
    syscall
    mov     %rax, %rcx
    shr     $16, %rcx
    movabs  ${ORDER}, %rdx
    cmp     %rdx, %rcx
    jne     .Lbulkhead_value
    mov     %eax, %ebp
    test    ${RUN}, %ebp
    jz      .Lbulkhead_leave

    # Commands: number and six arguments each.
    lea     {SLOT_COMMANDS}(%rbx), %r13
    mov     {SLOT_COUNT}(%rbx), %r14
    xor     %r15d, %r15d
1:  test    %r14, %r14
    jz      4f
    mov     (%r13), %rax
    mov     8(%r13), %rdi
    mov     16(%r13), %rsi
    mov     24(%r13), %rdx
    mov     32(%r13), %r10
    mov     40(%r13), %r8
    mov     48(%r13), %r9
    cmp     $-1, %rax
    je      .Lbulkhead_zero
    mov     %rax, %r15                          # a new thread must not look at the list: its parent may be
    syscall                                     # carrying out another one by now
    test    %rax, %rax
    jnz     2f
    cmp     ${SYS_clone}, %r15
    je      .Lbulkhead_born
2:  mov     %rax, %r15
    cmp     $-4096, %rax
    jbe     3f
    test    ${KEEP_GOING}, %ebp
    jnz     3f
    test    ${VALUE}, %ebp
    jz      5f
    jmp     .Lbulkhead_result
3:  add     ${COMMAND_SIZE}, %r13
    dec     %r14
    jmp     1b
4:  test    ${VALUE}, %ebp
    jnz     .Lbulkhead_result
    test    ${THEN_RESUME}, %ebp
    jnz     .Lbulkhead_leave
5:  mov     %r14, %r13                          # commands left
    mov     ${DONE}, %r14d
    jmp     .Lbulkhead_ring

.Lbulkhead_zero:
    mov     %rsi, %rcx
    xor     %eax, %eax
    rep stosb
    jmp     2b

    # A clone arrives: a forked child where its parent was, a thread at the top of its own slot.
.Lbulkhead_born:
    mov     %rsp, %rax
    and     $-{SLOT_SIZE}, %rax
    cmp     %rbx, %rax
    je      6f
    mov     %rax, %rbx
    lea     {SLOT_START_UC}(%rbx), %r12
6:  mov     {SLOT_TOKEN}(%rbx), %r15
    xor     %r13d, %r13d
    mov     ${BORN}, %r14d
    jmp     .Lbulkhead_ring

.Lbulkhead_result:
    mov     %r15, {UC_RAX}(%r12)
.Lbulkhead_leave:
    test    ${BASES}, %ebp
    jz      .Lbulkhead_resume
    mov     {SLOT_FS}(%rbx), %rax
    wrfsbase %rax
    mov     {SLOT_GS}(%rbx), %rax
    wrgsbase %rax
    jmp     .Lbulkhead_resume
.Lbulkhead_value:
    mov     %rax, {UC_RAX}(%r12)
.Lbulkhead_resume:
    mov     %r12, %rsp
    mov     ${SYS_rt_sigreturn}, %eax
    syscall
    hlt

    # SIGSYS, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, the kick.
.Lbulkhead_signals:
    .byte   31, 11, 7, 8, 4, 5, {KICK}, 0
bulkhead_stub_end:
    .popsection
