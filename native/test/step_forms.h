/*
 * Every kind of access that step.c knows, or refuses: the instruction, where its memory is, and what it does. How the registers are chosen so that it touches a page.
 * Included once a program, after step_machine.h.
 */
#ifndef PF_TEST_STEP_FORMS_H
#define PF_TEST_STEP_FORMS_H

#include "step_machine.h"

#include <asm/prctl.h>
#include <sys/syscall.h>

static uint8_t dest[256] __attribute__((aligned(64)));
static uint8_t other[256] __attribute__((aligned(64)));

typedef enum { ANY_CPU, NEED_SSE3, NEED_SSSE3, NEED_SSE41, NEED_SSE42, NEED_POPCNT, NEED_MOVBE, NEED_AVX, NEED_AVX2,
               NEED_FMA, NEED_BMI, NEED_BMI2, NEED_ADX, NEED_AVX512 } need_t;

typedef struct {
  const char *sentence;
  const char *code, *end;
  need_t need;
  int base, index; /* index: 1 + the register, 0 none; base: NONE is possible */
  unsigned scale;
  int64_t disp;
  unsigned size;   /* bytes read; 0 is 8 */
  bool aligned;    /* must not straddle; offsets are multiples of 64 */
  bool refused;    /* what is expected */
  bool low, near;  /* which arena */
  bool fs;         /* the address counts from the beginning of fs */
  bool xlat;       /* al is added to the address */
  bool df;         /* string operations go down */
  bool rdi_dest, rdi_bad, rdi_other; /* where the second operand is */
  bool rsi_bad, rsi_other;
  bool store;      /* writes memory; all forms of STORES do */
  unsigned expect; /* cmpxchg: bytes of rax, and with expect_pair of rdx, that the memory is compared with */
  bool expect_pair;
  unsigned rcx;    /* rounds of rep, when not 0 */
  unsigned rounds; /* traps expected; 0 is 1 */
  bool preceded;   /* other instructions come before the one that is meant */
  bool sets_al;    /* al holds 0, which is what the page holds */
  bool push;
} form_t;

#define IDX(reg) .index = 1 + (reg)

#define LOADS(X) \
  X(mov8, "mov loads 8 bits", "movb (%rax), %cl", .base = RAX, .size = 1) \
  X(mov8h, "mov loads 8 bits into a high byte", "movb (%rbx), %ch", .base = RBX, .size = 1) \
  X(mov8rex, "mov loads 8 bits into sil", "movb (%rbx), %sil", .base = RBX, .size = 1) \
  X(mov8r, "mov loads 8 bits into r9b", "movb (%r8), %r9b", .base = R8, .size = 1) \
  X(mov16, "mov loads 16 bits", "movw (%rdx), %si", .base = RDX, .size = 2) \
  X(mov32, "mov loads 32 bits and clears the upper half", "movl (%rsi), %edi", .base = RSI, .size = 4) \
  X(mov64, "mov loads 64 bits", "movq (%rdi), %rbp", .base = RDI) \
  X(movr8, "r8 is a base", "movq (%r8), %rax", .base = R8) \
  X(movr12, "r12 is a base, which takes a sib byte", "movq (%r12), %rax", .base = R12) \
  X(movr13, "r13 is a base, which takes a displacement", "movq (%r13), %rax", .base = R13) \
  X(movrbp, "rbp is a base", "movl (%rbp), %r15d", .base = RBP, .size = 4) \
  X(movr15, "r15 is a base", "movl 0x10(%r15), %r14d", .base = R15, .disp = 0x10, .size = 4) \
  X(disp8, "a displacement of 8 bits is added", "movq 0x7f(%rcx), %rdx", .base = RCX, .disp = 0x7f) \
  X(disp8n, "a negative displacement of 8 bits is added", "movq -0x80(%rcx), %rdx", .base = RCX, .disp = -0x80) \
  X(disp32, "a displacement of 32 bits is added", "movq 0x12345678(%rcx), %rdx", .base = RCX, .disp = 0x12345678) \
  X(disp32n, "a negative displacement of 32 bits is added", "movq -0x7654321(%r11), %rdx", .base = R11, .disp = -0x7654321) \
  X(idx1, "an index is added", "movq (%rax,%rcx), %rdx", .base = RAX, IDX(RCX), .scale = 1) \
  X(idx2, "an index times 2 is added", "movzwl (%rax,%rcx,2), %edx", .base = RAX, IDX(RCX), .scale = 2, .size = 2) \
  X(idx4, "an index times 4 and a displacement are added", "movl 0x40(%r9,%r10,4), %edx", .base = R9, IDX(R10), .scale = 4, .disp = 0x40, .size = 4) \
  X(idx8, "an index times 8 and a long displacement are added", "movq -0x1000(%r12,%r13,8), %rdx", .base = R12, IDX(R13), .scale = 8, .disp = -0x1000) \
  X(idx13, "r13 with an index is a base", "movq (%r13,%r12), %rdx", .base = R13, IDX(R12), .scale = 1) \
  X(idxr4, "r12 is an index although rsp is none", "movq (%rax,%r12,4), %rdx", .base = RAX, IDX(R12), .scale = 4) \
  X(nobase1, "an index without a base is shifted", "movq 0x20000000(,%rcx,1), %rdx", .base = NONE, IDX(RCX), .scale = 1, .disp = LOW_ARENA, .low = true) \
  X(nobase8, "an index times 8 without a base is shifted", "movq 0x20000000(,%r14,8), %rdx", .base = NONE, IDX(R14), .scale = 8, .disp = LOW_ARENA, .low = true, .aligned = true) \
  X(low, "a base below 2 GiB is shifted", "movq (%rcx), %rdx", .base = RCX, .low = true) \
  X(movzb, "movzx extends a byte", "movzbl (%rbx), %eax", .base = RBX, .size = 1) \
  X(movzb64, "movzx extends a byte to 64 bits", "movzbq (%rbx), %r10", .base = RBX, .size = 1) \
  X(movzw, "movzx extends 16 bits", "movzwl (%rbx), %eax", .base = RBX, .size = 2) \
  X(movsb16, "movsx extends a byte to 16 bits", "movsbw (%rbx), %ax", .base = RBX, .size = 1) \
  X(movsb64, "movsx extends a byte to 64 bits", "movsbq (%rbx), %rax", .base = RBX, .size = 1) \
  X(movsw, "movsx extends 16 bits", "movswq (%rbx), %rax", .base = RBX, .size = 2) \
  X(movsxd, "movsxd extends 32 bits", "movslq (%rbx), %rax", .base = RBX, .size = 4) \
  X(own64, "64 bits are loaded into the register of their address", "movq (%rax), %rax", .base = RAX) \
  X(own32, "32 bits are loaded into the register of their address", "movl (%rax), %eax", .base = RAX, .size = 4) \
  X(own16, "16 bits are loaded into the register of their address", "movw (%rax), %ax", .base = RAX, .size = 2) \
  X(own8, "8 bits are loaded into the register of their address", "movb (%rax), %al", .base = RAX, .size = 1) \
  X(own8h, "a high byte is loaded into the register of its address", "movb (%rdx), %dh", .base = RDX, .size = 1) \
  X(own8r, "8 bits are loaded into r13, which is their address", "movb (%r13), %r13b", .base = R13, .size = 1) \
  X(ownzx, "movzx extends into the register of its address", "movzbl (%rsi), %esi", .base = RSI, .size = 1) \
  X(ownzx16, "movzx extends to 16 bits in the register of its address", "movzbw (%rsi), %si", .base = RSI, .size = 1) \
  X(ownsx, "movsxd extends into the register of its address", "movslq (%r9), %r9", .base = R9, .size = 4) \
  X(ownidx, "the index is overwritten by the load", "movq (%rax,%rcx,8), %rcx", .base = RAX, IDX(RCX), .scale = 8) \
  X(ownidxb, "an index without a base is overwritten by the load", "movq 0x20000000(,%rcx,1), %rcx", .base = NONE, IDX(RCX), .scale = 1, .disp = LOW_ARENA, .low = true) \
  X(owncmov, "cmov may load into the register of its address", "cmovcq (%rax), %rax", .base = RAX) \
  X(ownbsf, "bsf may leave the register of its address alone", "bsfq (%rax), %rax", .base = RAX) \
  X(ownand, "and with the register of the address", "andq (%rax), %rax", .base = RAX) \
  X(ownand16, "and with 16 bits of the register of the address", "andw (%rax), %ax", .base = RAX, .size = 2) \
  X(ownadd8, "add to the low byte of the address", "addb (%rax), %al", .base = RAX, .size = 1) \
  X(owntest, "test with the register of the address", "testq %rax, (%rax)", .base = RAX) \
  X(ownimul, "imul with the register of the address", "imulq (%rcx), %rcx", .base = RCX) \
  X(ownmul8, "mul of 8 bits through rax", "mulb (%rax)", .base = RAX, .size = 1) \
  X(ownmul16, "mul of 16 bits through rdx", "mulw (%rdx)", .base = RDX, .size = 2) \
  X(ownmul32, "mul of 32 bits through rax", "mull (%rax)", .base = RAX, .size = 4) \
  X(ownmul64, "mul of 64 bits through rdx", "mulq (%rdx)", .base = RDX) \
  X(otheradd, "add to the base is redirected by the index", "addq (%rax,%rcx), %rax", .base = RAX, IDX(RCX), .scale = 1) \
  X(othercmp, "cmp with the base is redirected by the scaled index", "cmpq %rax, (%rax,%r9,4)", .base = RAX, IDX(R9), .scale = 4, .aligned = true) \
  X(othercmov, "cmov of 32 bits into the base is redirected by the index", "cmovcl (%rax,%rcx,8), %eax", .base = RAX, IDX(RCX), .scale = 8, .size = 4, .aligned = true) \
  X(ownimul16, "imul of 16 bits into the register of its address", "imulw $3, (%rax), %ax", .base = RAX, .size = 2) \
  X(add, "add from memory", "addq (%rbx), %rcx", .base = RBX) \
  X(add8, "add of bytes from memory", "addb (%rbx), %cl", .base = RBX, .size = 1) \
  X(or, "or from memory", "orl (%rbx), %ecx", .base = RBX, .size = 4) \
  X(adc, "adc from memory", "adcq (%rbx), %rcx", .base = RBX) \
  X(sbb, "sbb from memory", "sbbq (%rbx), %rcx", .base = RBX) \
  X(and, "and from memory", "andl (%rbx), %ecx", .base = RBX, .size = 4) \
  X(sub, "sub from memory", "subw (%rbx), %cx", .base = RBX, .size = 2) \
  X(xor, "xor from memory", "xorq (%rbx), %rcx", .base = RBX) \
  X(cmp, "cmp with memory", "cmpq (%rbx), %rcx", .base = RBX) \
  X(cmpm, "cmp of memory", "cmpb %cl, (%rbx)", .base = RBX, .size = 1) \
  X(cmpi8, "cmp with a byte constant", "cmpb $5, 3(%rbx)", .base = RBX, .disp = 3, .size = 1) \
  X(cmpi32, "cmp with a long constant", "cmpl $0x12345678, (%rbx)", .base = RBX, .size = 4) \
  X(cmpi8s, "cmp with a sign-extended constant", "cmpq $-1, (%rbx)", .base = RBX) \
  X(test, "test with memory", "testl %ecx, (%rbx)", .base = RBX, .size = 4) \
  X(testi, "test with a constant", "testb $0x80, (%rbx)", .base = RBX, .size = 1) \
  X(testi32, "test with a long constant", "testq $0x7fffffff, (%rbx)", .base = RBX) \
  X(imul1, "imul with one operand", "imulq (%rbx)", .base = RBX) \
  X(imul3, "imul with a constant", "imull $77, (%rbx), %ecx", .base = RBX, .size = 4) \
  X(imul3l, "imul with a long constant", "imulq $0x12345, (%rbx), %rcx", .base = RBX) \
  X(mul, "mul from memory", "mull (%rbx)", .base = RBX, .size = 4) \
  X(cmov, "cmov from memory", "cmovnel (%rbx), %ecx", .base = RBX, .size = 4) \
  X(bt, "bt with a constant", "btl $7, (%rbx)", .base = RBX, .size = 4) \
  X(bsr, "bsr from memory", "bsrq (%rbx), %rcx", .base = RBX) \
  X(push, "push from memory", "pushq (%rbx)", .base = RBX, .push = true) \
  X(xlat, "xlat reads at rbx plus al", "xlatb", .base = RBX, .xlat = true, .size = 1) \
  X(fs, "an address may count from fs", "movq %fs:(%rcx), %rdx", .base = RCX, .fs = true) \
  X(ds, "segment prefixes without meaning are skipped", "movq %cs:(%rcx), %rdx", .base = RCX) \
  X(rexlost, "a rex prefix before another prefix does not count", ".byte 0x41, 0x66, 0x8b, 0x08", .base = RAX, .size = 2) \
  X(prefixes, "prefixes may repeat", ".byte 0x66, 0x3e, 0x66, 0x48, 0x8b, 0x08", .base = RAX) \
  X(popcnt, "popcnt from memory", "popcntq (%rbx), %rcx", .base = RBX, .need = NEED_POPCNT) \
  X(movbe, "movbe loads", "movbeq (%rbx), %rcx", .base = RBX, .need = NEED_MOVBE) \
  X(movbe16, "movbe loads 16 bits into the register of its address", "movbew (%rbx), %bx", .base = RBX, .size = 2, .need = NEED_MOVBE) \
  X(crc8, "crc32 of a byte", "crc32b (%rbx), %ecx", .base = RBX, .size = 1, .need = NEED_SSE42) \
  X(crc64, "crc32 of 64 bits", "crc32q (%rbx), %rcx", .base = RBX, .need = NEED_SSE42) \
  X(tzcnt, "tzcnt into the register of its address", "tzcntq (%rbx), %rbx", .base = RBX, .need = NEED_BMI) \
  X(andn, "andn from memory", "andnq (%rbx), %rcx, %rdx", .base = RBX, .need = NEED_BMI) \
  X(blsi, "blsi from memory", "blsiq (%r11), %rdx", .base = R11, .need = NEED_BMI) \
  X(blsmsk, "blsmsk into the register of its address", "blsmskq (%r11), %r11", .base = R11, .need = NEED_BMI) \
  X(bextr, "bextr with the register of its address", "bextrq %rbx, (%rbx), %rcx", .base = RBX, .need = NEED_BMI) \
  X(shlx, "shlx from memory", "shlxq %rcx, (%rbx), %rdx", .base = RBX, .need = NEED_BMI2) \
  X(bzhi, "bzhi with the register of its address", "bzhiq %rbx, (%rbx), %rdx", .base = RBX, .need = NEED_BMI2) \
  X(mulx, "mulx from memory", "mulxq (%rbx), %rcx, %rsi", .base = RBX, .need = NEED_BMI2) \
  X(pdep, "pdep from memory", "pdepq (%rbx), %rcx, %rsi", .base = RBX, .need = NEED_BMI2) \
  X(rorx, "rorx from memory", "rorxq $13, (%r8,%r9,2), %rcx", .base = R8, IDX(R9), .scale = 2, .need = NEED_BMI2) \
  X(adcx, "adcx from memory", "adcxq (%rbx), %rcx", .base = RBX, .need = NEED_ADX) \
  X(adox, "adox from memory", "adoxq (%rbx), %rcx", .base = RBX, .need = NEED_ADX) \
  X(fld32, "fld of 32 bits", "flds (%rbx)", .base = RBX, .size = 4) \
  X(fld80, "fld of 80 bits", "fldt (%rbx)", .base = RBX, .size = 10) \
  X(fild, "fild of 64 bits", "fildll (%rbx)", .base = RBX) \
  X(movss, "movss loads and clears the rest", "movss (%rbx), %xmm3", .base = RBX, .size = 4) \
  X(movsd, "movsd loads and clears the rest", "movsd 8(%rbx,%rcx,8), %xmm9", .base = RBX, IDX(RCX), .scale = 8, .disp = 8) \
  X(movups, "movups loads", "movups (%rbx), %xmm0", .base = RBX, .size = 16) \
  X(movaps, "movaps loads, still aligned", "movaps (%rbx), %xmm0", .base = RBX, .size = 16, .aligned = true) \
  X(movdqu, "movdqu loads", "movdqu (%r10), %xmm15", .base = R10, .size = 16) \
  X(movdqa, "movdqa loads, still aligned", "movdqa (%r10), %xmm15", .base = R10, .size = 16, .aligned = true) \
  X(movlps, "movlps loads one half", "movlps (%rbx), %xmm2", .base = RBX) \
  X(movhpd, "movhpd loads one half", "movhpd (%rbx), %xmm2", .base = RBX) \
  X(movqx, "movq loads a vector's half", "movq (%rbx), %xmm2", .base = RBX) \
  X(movdx, "movd loads a vector's quarter", "movd (%rbx), %xmm2", .base = RBX, .size = 4) \
  X(addsd, "addsd from memory", "addsd (%rbx), %xmm2", .base = RBX) \
  X(ucomisd, "ucomisd sets flags", "ucomisd (%rbx), %xmm2", .base = RBX) \
  X(cvtsi, "cvtsi2sd from memory", "cvtsi2sdq (%rbx), %xmm2", .base = RBX) \
  X(cvttsd, "cvttsd2si into the register of its address", "cvttsd2si (%rbx), %rbx", .base = RBX) \
  X(pcmpeqb, "pcmpeqb from memory", "pcmpeqb (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true) \
  X(pxor, "pxor from memory", "pxor (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true) \
  X(pshufd, "pshufd with a constant", "pshufd $0x1b, (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true) \
  X(pinsrw, "pinsrw from memory", "pinsrw $3, (%rdi), %xmm1", .base = RDI, .size = 2) \
  X(shufps, "shufps from memory", "shufps $0x1b, (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true) \
  X(lddqu, "lddqu loads", "lddqu (%rdi), %xmm1", .base = RDI, .size = 16, .need = NEED_SSE3) \
  X(movddup, "movddup loads", "movddup (%rdi), %xmm1", .base = RDI, .need = NEED_SSE3) \
  X(pshufb, "pshufb from memory", "pshufb (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true, .need = NEED_SSSE3) \
  X(palignr, "palignr from memory", "palignr $5, (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true, .need = NEED_SSSE3) \
  X(pmovzx, "pmovzxbw from memory", "pmovzxbw (%rdi), %xmm1", .base = RDI, .need = NEED_SSE41) \
  X(ptest, "ptest sets flags", "ptest (%rdi), %xmm1", .base = RDI, .size = 16, .aligned = true, .need = NEED_SSE41) \
  X(pinsrq, "pinsrq from memory", "pinsrq $1, (%rdi), %xmm1", .base = RDI, .need = NEED_SSE41) \
  X(pcmpistri, "pcmpistri into the register of its address", "pcmpistri $0x0c, (%rcx), %xmm1", .base = RCX, .size = 16, .need = NEED_SSE42) \
  X(pcmpestri, "pcmpestri takes its lengths from rax and rdx", "pcmpestri $0x0c, (%rbx), %xmm1", .base = RBX, .size = 16, .need = NEED_SSE42) \
  X(vmovdqu, "vmovdqu loads a ymm register", "vmovdqu (%rbx), %ymm7", .base = RBX, .size = 32, .need = NEED_AVX) \
  X(vmovdqu3, "a vex prefix of three bytes extends base and index", "vmovdqu 0x20(%r8,%r9,4), %ymm12", .base = R8, IDX(R9), .scale = 4, .disp = 0x20, .size = 32, .need = NEED_AVX) \
  X(vmovaps, "vmovaps loads, still aligned", "vmovaps (%rbx), %ymm7", .base = RBX, .size = 32, .aligned = true, .need = NEED_AVX) \
  X(vaddpd, "vaddpd from memory", "vaddpd (%rbx), %ymm6, %ymm7", .base = RBX, .size = 32, .need = NEED_AVX) \
  X(vmovq, "vmovq loads", "vmovq (%rbx), %xmm7", .base = RBX, .need = NEED_AVX) \
  X(vptest, "vptest sets flags", "vptest (%rbx), %ymm7", .base = RBX, .size = 32, .need = NEED_AVX) \
  X(vbroadss, "vbroadcastss loads", "vbroadcastss (%rbx), %ymm7", .base = RBX, .size = 4, .need = NEED_AVX) \
  X(vpbroadb, "vpbroadcastb loads", "vpbroadcastb (%rbx), %ymm7", .base = RBX, .size = 1, .need = NEED_AVX2) \
  X(vpcmpeqb, "vpcmpeqb from memory", "vpcmpeqb (%rdi), %ymm1, %ymm2", .base = RDI, .size = 32, .need = NEED_AVX2) \
  X(vinsert, "vinserti128 from memory", "vinserti128 $1, (%rdi), %ymm1, %ymm2", .base = RDI, .size = 16, .need = NEED_AVX2) \
  X(vperm, "vpermq from memory", "vpermq $0x1b, (%rdi), %ymm2", .base = RDI, .size = 32, .need = NEED_AVX2) \
  X(vfmadd, "vfmadd231sd from memory", "vfmadd231sd (%rdi), %xmm1, %xmm2", .base = RDI, .need = NEED_FMA) \
  X(zmov, "vmovdqu64 loads a zmm register", "vmovdqu64 (%rbx), %zmm17", .base = RBX, .size = 64, .need = NEED_AVX512) \
  X(zdisp64, "an evex displacement counts in 64 bytes", "vmovdqu64 0x1000(%r12), %zmm3", .base = R12, .disp = 0x1000, .size = 64, .need = NEED_AVX512) \
  X(zdisp32, "an evex displacement counts in 32 bytes", "vmovdqu32 -0x1000(%rbx), %ymm30", .base = RBX, .disp = -0x1000, .size = 32, .need = NEED_AVX512) \
  X(zdisp8, "an evex displacement of a scalar counts in 8 bytes", "vaddsd 0x3f8(%rbx), %xmm20, %xmm21", .base = RBX, .disp = 0x3f8, .need = NEED_AVX512) \
  X(zbcst, "an evex broadcast reads one element", "vpaddd 0x1fc(%rbx){1to16}, %zmm4, %zmm5", .base = RBX, .disp = 0x1fc, .size = 4, .need = NEED_AVX512) \
  X(zlong, "an evex displacement may be long", "vmovdqu8 0x12345(%r9,%r10,8), %xmm5", .base = R9, IDX(R10), .scale = 8, .disp = 0x12345, .size = 16, .need = NEED_AVX512) \
  X(zcmp, "vpcmpeqb sets a mask", "vpcmpeqb (%rdi), %ymm17, %k3", .base = RDI, .size = 32, .need = NEED_AVX512) \
  X(zmin, "vpminub from memory", "vpminub 0x20(%rdi), %ymm17, %ymm18", .base = RDI, .disp = 0x20, .size = 32, .need = NEED_AVX512) \
  X(ztern, "vpternlogd from memory", "vpternlogd $0x96, (%rdi), %ymm17, %ymm18", .base = RDI, .size = 32, .need = NEED_AVX512) \
  X(zshift, "vpsrld by a constant from memory", "vpsrld $3, (%rdi), %zmm18", .base = RDI, .size = 64, .need = NEED_AVX512) \
  X(kmov, "kmov loads a mask", "kmovq (%rdi), %k2", .base = RDI, .need = NEED_AVX512) \
  X(lodsb, "lodsb moves rsi on", "lodsb", .base = RSI, .size = 1) \
  X(lodsq, "lodsq moves rsi on", "lodsq", .base = RSI) \
  X(lodswd, "lodsw moves rsi down", "lodsw", .base = RSI, .size = 2, .df = true) \
  X(replods, "rep lodsb traps in each round", "rep lodsb", .base = RSI, .size = 1, .rcx = 7, .rounds = 7, .aligned = true) \
  X(movsb, "movsb copies from the page", "movsb", .base = RSI, .size = 1, .rdi_dest = true) \
  X(movsl, "movsl copies from the page", "movsl", .base = RSI, .size = 4, .rdi_dest = true) \
  X(movsq, "movsq copies from the page", "movsq", .base = RSI, .rdi_dest = true) \
  X(repmovsb, "rep movsb copies at once", "rep movsb", .base = RSI, .rdi_dest = true, .rcx = 37, .aligned = true) \
  X(repmovsw, "rep movsw copies at once", "rep movsw", .base = RSI, .rdi_dest = true, .rcx = 19, .aligned = true) \
  X(repmovsl, "rep movsl copies at once", "rep movsl", .base = RSI, .rdi_dest = true, .rcx = 21, .aligned = true) \
  X(repmovsq, "rep movsq copies at once", "rep movsq", .base = RSI, .rdi_dest = true, .rcx = 9, .aligned = true) \
  X(repmovsc, "rep movsb with more prefixes copies at once", ".byte 0x2e, 0xf2, 0x40, 0xa4", .base = RSI, .rdi_dest = true, .rcx = 5, .aligned = true) \
  X(repmovsf, "rep movsb with fs traps in each round", "rep movsb %fs:(%rsi), (%rdi)", .base = RSI, .fs = true, .rdi_dest = true, .rcx = 11, .rounds = 11, .aligned = true) \
  X(repmovsd, "rep movsb copies downwards", "rep movsb", .base = RSI, .rdi_dest = true, .rcx = 11, .rounds = 11, .df = true, .aligned = true) \
  X(scasb, "scasb compares with the page", "scasb", .base = RDI, .size = 1) \
  X(scasq, "scasq compares with the page", "scasq", .base = RDI) \
  X(repnescas, "repne scasb searches through the page", "repne scasb", .base = RDI, .rcx = 40, .rounds = 40, .aligned = true) \
  X(repnescasf, "repne scasb finds a zero at once", "repne scasb", .base = RDI, .rcx = 40, .sets_al = true, .aligned = true) \
  X(repescasq, "repe scasb goes on while it reads zeroes", "repe scasb", .base = RDI, .rcx = 12, .rounds = 12, .sets_al = true, .aligned = true) \
  X(cmpsb1, "cmpsb with the first operand on the page", "cmpsb", .base = RSI, .size = 1, .rdi_other = true) \
  X(cmpsb2, "cmpsb with both operands on bad pages", "cmpsb", .base = RSI, .size = 1, .rdi_bad = true) \
  X(cmpsq2, "cmpsq with both operands on bad pages", "cmpsq", .base = RSI, .rdi_bad = true) \
  X(repecmps, "repe cmpsb goes on over two bad pages", "repe cmpsb", .base = RSI, .rcx = 20, .rounds = 20, .rdi_bad = true, .aligned = true)

#define STORES(X) \
  X(st8, "mov stores 8 bits", "movb %cl, (%rax)", .base = RAX, .size = 1) \
  X(st8h, "mov stores a high byte", "movb %ch, (%rbx)", .base = RBX, .size = 1) \
  X(st16, "mov stores 16 bits", "movw %si, (%rdx)", .base = RDX, .size = 2) \
  X(st32, "mov stores 32 bits", "movl %edi, (%rsi)", .base = RSI, .size = 4) \
  X(st64, "mov stores 64 bits", "movq %rbp, (%rdi)", .base = RDI) \
  X(stown, "mov stores the register of the address", "movq %rax, (%rax)", .base = RAX) \
  X(stown8, "mov stores a byte of the register of the address", "movb %ah, (%rax)", .base = RAX, .size = 1) \
  X(strsp, "mov stores rsp", "movq %rsp, (%rax)", .base = RAX) \
  X(stidx, "mov stores at a scaled index", "movl %edx, 0x40(%r9,%r10,4)", .base = R9, IDX(R10), .scale = 4, .disp = 0x40, .size = 4) \
  X(stnobase, "mov stores at an index without a base", "movq %rdx, 0x20000000(,%rcx,1)", .base = NONE, IDX(RCX), .scale = 1, .disp = LOW_ARENA, .low = true) \
  X(stfs, "mov stores at an address from fs", "movq %rdx, %fs:(%rcx)", .base = RCX, .fs = true) \
  X(sti8, "mov stores a constant of 8 bits", "movb $0x7f, 3(%r13)", .base = R13, .disp = 3, .size = 1) \
  X(sti16, "mov stores a constant of 16 bits", "movw $0x1234, (%rbx)", .base = RBX, .size = 2) \
  X(sti32, "mov stores a constant of 32 bits", "movl $0x12345678, (%r12)", .base = R12, .size = 4) \
  X(sti64, "mov stores a constant of 64 bits", "movq $-2, (%rbx,%rcx,8)", .base = RBX, IDX(RCX), .scale = 8) \
  X(movnti, "movnti stores", "movntiq %rcx, (%rbx)", .base = RBX) \
  X(movbest, "movbe stores", "movbel %ecx, (%rbx)", .base = RBX, .size = 4, .need = NEED_MOVBE) \
  X(setc, "setc stores a flag", "setc (%rbx)", .base = RBX, .size = 1) \
  X(setg, "setg stores a comparison", "setg 5(%r8,%r9)", .base = R8, IDX(R9), .scale = 1, .disp = 5, .size = 1) \
  X(addst, "add to memory", "addq %rcx, (%rbx)", .base = RBX) \
  X(addst8, "add of bytes to memory", "addb %cl, (%rbx)", .base = RBX, .size = 1) \
  X(orst, "or to memory", "orl %ecx, (%rbx)", .base = RBX, .size = 4) \
  X(adcst, "adc to memory", "adcq %rcx, (%rbx)", .base = RBX) \
  X(sbbst, "sbb to memory", "sbbq %rcx, (%rbx)", .base = RBX) \
  X(andst, "and to memory", "andw %cx, (%rbx)", .base = RBX, .size = 2) \
  X(subst, "sub to memory", "subq %rcx, (%r11,%r12,2)", .base = R11, IDX(R12), .scale = 2) \
  X(xorst, "xor to memory", "xorl %ecx, (%rbx)", .base = RBX, .size = 4) \
  X(andstown, "and of the register of the address", "andq %rax, (%rax)", .base = RAX) \
  X(addstown8, "add of the low byte of the address", "addb %al, (%rax)", .base = RAX, .size = 1) \
  X(addstother, "add of the base is redirected by the index", "addq %rax, (%rax,%rcx)", .base = RAX, IDX(RCX), .scale = 1) \
  X(addi8, "add of a constant to memory", "addb $0x90, (%rbx)", .base = RBX, .size = 1) \
  X(ori32, "or of a long constant to memory", "orl $0x12345678, (%rbx)", .base = RBX, .size = 4) \
  X(subi64, "sub of a sign-extended constant from memory", "subq $-1, (%rbx)", .base = RBX) \
  X(inc, "inc of memory", "incl (%rbx)", .base = RBX, .size = 4) \
  X(inc8, "inc of a byte", "incb (%rbx)", .base = RBX, .size = 1) \
  X(dec64, "dec of memory", "decq (%r10)", .base = R10) \
  X(neg, "neg of memory", "negq (%rbx)", .base = RBX) \
  X(notm, "not of memory", "notw (%rbx)", .base = RBX, .size = 2) \
  X(shl1, "shl by one", "shlq (%rbx)", .base = RBX) \
  X(shli, "shl by a constant", "shll $5, (%rbx)", .base = RBX, .size = 4) \
  X(sarcl, "sar by cl", "sarq %cl, (%rbx)", .base = RBX) \
  X(shrown, "shr by a part of the address", "shrq %cl, (%rcx)", .base = RCX) \
  X(rclm, "rcl shifts the carry in", "rclb $3, (%rbx)", .base = RBX, .size = 1) \
  X(shld, "shld shifts into memory", "shldq $7, %rcx, (%rbx)", .base = RBX) \
  X(shrdcl, "shrd shifts into memory by cl", "shrdl %cl, %edx, (%rbx)", .base = RBX, .size = 4) \
  X(btsi, "bts with a constant", "btsl $7, (%rbx)", .base = RBX, .size = 4) \
  X(btri, "btr with a constant", "btrq $40, (%rbx)", .base = RBX) \
  X(btci, "btc with a constant", "btcw $3, (%rbx)", .base = RBX, .size = 2) \
  X(xchg, "xchg loads and stores", "xchgq %rcx, (%rbx)", .base = RBX, .aligned = true) \
  X(xchg32, "xchg of 32 bits clears the upper half", "xchgl %ecx, (%rbx)", .base = RBX, .size = 4, .aligned = true) \
  X(xchg8h, "xchg of a high byte", "xchgb %ch, (%rbx)", .base = RBX, .size = 1) \
  X(xchgown, "xchg with the register of the address", "xchgq %rax, (%rax)", .base = RAX, .aligned = true) \
  X(xchgown32, "xchg of 32 bits with the register of the address", "xchgl %eax, (%rax)", .base = RAX, .size = 4, .aligned = true) \
  X(xchgown8, "xchg of a byte of the register of the address", "xchgb %al, (%rax)", .base = RAX, .size = 1) \
  X(xadd, "xadd loads and adds", "xaddq %rcx, (%rbx)", .base = RBX) \
  X(xadd8own, "xadd of the low byte of the address", "xaddb %al, (%rax)", .base = RAX, .size = 1) \
  X(lockadd, "lock add", "lock addl %ecx, (%rbx)", .base = RBX, .size = 4, .aligned = true) \
  X(lockinc, "lock inc", "lock incq (%rbx,%rcx,8)", .base = RBX, IDX(RCX), .scale = 8, .aligned = true) \
  X(lockor, "lock or of a constant", "lock orb $1, (%rbx)", .base = RBX, .size = 1) \
  X(lockxadd, "lock xadd", "lock xaddl %ecx, (%rbx)", .base = RBX, .size = 4, .aligned = true) \
  X(lockbts, "lock bts", "lock btsl $3, (%rbx)", .base = RBX, .size = 4, .aligned = true) \
  X(cmpxchg8, "cmpxchg of 8 bits finds what it expects", "lock cmpxchgb %cl, (%rbx)", .base = RBX, .size = 1, .expect = 1) \
  X(cmpxchg16, "cmpxchg of 16 bits finds what it expects", "lock cmpxchgw %cx, (%rbx)", .base = RBX, .size = 2, .expect = 2, .aligned = true) \
  X(cmpxchg32, "cmpxchg of 32 bits finds what it expects", "lock cmpxchgl %ecx, (%r9)", .base = R9, .size = 4, .expect = 4, .aligned = true) \
  X(cmpxchg64, "cmpxchg of 64 bits finds what it expects", "cmpxchgq %rcx, (%rbx)", .base = RBX, .expect = 8) \
  X(cmpxchgown, "cmpxchg stores the register of its address", "lock cmpxchgq %rbx, (%rbx)", .base = RBX, .expect = 8, .aligned = true) \
  X(cmpxchgown8, "cmpxchg of 8 bits with its address in rax", "cmpxchgb %cl, (%rax)", .base = RAX, .size = 1, .expect = 1) \
  X(cmpxchgidx, "cmpxchg with rax as base is redirected by the index", "cmpxchgq %rdx, (%rax,%rcx)", .base = RAX, IDX(RCX), .scale = 1, .expect = 8) \
  X(cmpxchg8b, "cmpxchg8b finds what it expects", "lock cmpxchg8b (%rsi)", .base = RSI, .expect = 4, .expect_pair = true, .aligned = true) \
  X(cmpxchg16b, "cmpxchg16b finds what it expects", "lock cmpxchg16b (%rbx)", .base = RBX, .size = 16, .expect = 8, .expect_pair = true, .aligned = true) \
  X(fst32, "fst of 32 bits", "fsts (%rbx)", .base = RBX, .size = 4) \
  X(fstp64, "fstp of 64 bits", "fstpl (%rbx)", .base = RBX) \
  X(fstp80, "fstp of 80 bits", "fstpt (%rbx)", .base = RBX, .size = 10) \
  X(fistp64, "fistp of 64 bits", "fistpll (%rbx)", .base = RBX) \
  X(movssst, "movss stores", "movss %xmm3, (%rbx)", .base = RBX, .size = 4) \
  X(movsdst, "movsd stores", "movsd %xmm9, 8(%rbx,%rcx,8)", .base = RBX, IDX(RCX), .scale = 8, .disp = 8) \
  X(movupsst, "movups stores", "movups %xmm0, (%rbx)", .base = RBX, .size = 16) \
  X(movapsst, "movaps stores, still aligned", "movaps %xmm0, (%rbx)", .base = RBX, .size = 16, .aligned = true) \
  X(movdqust, "movdqu stores", "movdqu %xmm15, (%r10)", .base = R10, .size = 16) \
  X(movdqast, "movdqa stores, still aligned", "movdqa %xmm15, (%r10)", .base = R10, .size = 16, .aligned = true) \
  X(movlpsst, "movlps stores one half", "movlps %xmm2, (%rbx)", .base = RBX) \
  X(movhpdst, "movhpd stores one half", "movhpd %xmm2, (%rbx)", .base = RBX) \
  X(movqst, "movq stores a vector's half", "movq %xmm2, (%rbx)", .base = RBX) \
  X(movdst, "movd stores a vector's quarter", "movd %xmm2, (%rbx)", .base = RBX, .size = 4) \
  X(movq64st, "movq stores with rex.w", ".byte 0x66, 0x48, 0x0f, 0x7e, 0x13", .base = RBX) \
  X(movntps, "movntps stores", "movntps %xmm2, (%rbx)", .base = RBX, .size = 16, .aligned = true) \
  X(movntdq, "movntdq stores", "movntdq %xmm2, (%rbx)", .base = RBX, .size = 16, .aligned = true) \
  X(pextrbst, "pextrb stores", "pextrb $5, %xmm2, (%rbx)", .base = RBX, .size = 1, .need = NEED_SSE41) \
  X(pextrqst, "pextrq stores", "pextrq $1, %xmm2, (%rbx)", .base = RBX, .need = NEED_SSE41) \
  X(extractps, "extractps stores", "extractps $2, %xmm2, (%rbx)", .base = RBX, .size = 4, .need = NEED_SSE41) \
  X(vmovdqust, "vmovdqu stores a ymm register", "vmovdqu %ymm7, (%rbx)", .base = RBX, .size = 32, .need = NEED_AVX) \
  X(vmovdqu3st, "a vex store of three bytes", "vmovdqu %ymm12, 0x20(%r8,%r9,4)", .base = R8, IDX(R9), .scale = 4, .disp = 0x20, .size = 32, .need = NEED_AVX) \
  X(vmovapsst, "vmovaps stores, still aligned", "vmovaps %ymm7, (%rbx)", .base = RBX, .size = 32, .aligned = true, .need = NEED_AVX) \
  X(vmovssst, "vmovss stores", "vmovss %xmm7, (%rbx)", .base = RBX, .size = 4, .need = NEED_AVX) \
  X(vmovsdst, "vmovsd stores", "vmovsd %xmm7, (%rbx)", .base = RBX, .need = NEED_AVX) \
  X(vmovqst, "vmovq stores", "vmovq %xmm7, (%rbx)", .base = RBX, .need = NEED_AVX) \
  X(vmovdst, "vmovd stores", "vmovd %xmm7, (%rbx)", .base = RBX, .size = 4, .need = NEED_AVX) \
  X(vmovhpsst, "vmovhps stores", "vmovhps %xmm7, (%rbx)", .base = RBX, .need = NEED_AVX) \
  X(vmovntdq, "vmovntdq stores", "vmovntdq %ymm7, (%rbx)", .base = RBX, .size = 32, .aligned = true, .need = NEED_AVX) \
  X(vextract, "vextracti128 stores", "vextracti128 $1, %ymm7, (%rbx)", .base = RBX, .size = 16, .need = NEED_AVX2) \
  X(vpextrw, "vpextrw stores", "vpextrw $5, %xmm7, (%rbx)", .base = RBX, .size = 2, .need = NEED_AVX) \
  X(vmaskst, "vmaskmovps stores", "vpcmpeqd %ymm1, %ymm1, %ymm1\n vmaskmovps %ymm2, %ymm1, (%rbx)", .preceded = true, .base = RBX, .size = 32, .need = NEED_AVX2) \
  X(zst, "vmovdqu64 stores a zmm register", "vmovdqu64 %zmm17, (%rbx)", .base = RBX, .size = 64, .need = NEED_AVX512) \
  X(zstdisp64, "an evex displacement of a store counts in 64 bytes", "vmovdqu64 %zmm3, 0x1000(%r12)", .base = R12, .disp = 0x1000, .size = 64, .need = NEED_AVX512) \
  X(zstdisp32, "an evex displacement of a store counts in 32 bytes", "vmovdqu32 %ymm30, -0x1000(%rbx)", .base = RBX, .disp = -0x1000, .size = 32, .need = NEED_AVX512) \
  X(zstscalar, "an evex displacement of a scalar store counts in 8 bytes", "vmovsd %xmm20, 0x3f8(%rbx)", .base = RBX, .disp = 0x3f8, .need = NEED_AVX512) \
  X(zstlong, "an evex displacement of a store may be long", "vmovdqu8 %xmm25, 0x12345(%r9,%r10,8)", .base = R9, IDX(R10), .scale = 8, .disp = 0x12345, .size = 16, .need = NEED_AVX512) \
  X(zstmask, "an evex store may have a mask", "vmovdqu8 %zmm5, (%rbx){%k2}", .base = RBX, .size = 64, .aligned = true, .need = NEED_AVX512) \
  X(zstnarrow, "vpmovdb narrows and stores", "vpmovdb %zmm5, 0x7f0(%rbx)", .base = RBX, .disp = 0x7f0, .size = 16, .need = NEED_AVX512) \
  X(zstextract, "vextracti64x4 stores", "vextracti64x4 $1, %zmm17, (%rbx)", .base = RBX, .size = 32, .need = NEED_AVX512) \
  X(kmovst, "kmov stores a mask", "kmovq %k2, (%rdi)", .base = RDI, .need = NEED_AVX512) \
  X(stosb, "stosb moves rdi on", "stosb", .base = RDI, .size = 1) \
  X(stosq, "stosq moves rdi on", "stosq", .base = RDI) \
  X(stoswd, "stosw moves rdi down", "stosw", .base = RDI, .size = 2, .df = true) \
  X(repstosb, "rep stosb fills at once", "rep stosb", .base = RDI, .rcx = 37, .aligned = true) \
  X(repstosw, "rep stosw fills at once", "rep stosw", .base = RDI, .rcx = 19, .aligned = true) \
  X(repstosl, "rep stosl fills at once", "rep stosl", .base = RDI, .rcx = 21, .aligned = true) \
  X(repstosq, "rep stosq fills at once", "rep stosq", .base = RDI, .rcx = 9, .aligned = true) \
  X(repstosd, "rep stosb fills downwards", "rep stosb", .base = RDI, .rcx = 11, .rounds = 11, .df = true, .aligned = true) \
  X(movsbto, "movsb copies to the page", "movsb", .base = RDI, .size = 1, .rsi_other = true) \
  X(movsqto, "movsq copies to the page", "movsq", .base = RDI, .rsi_other = true) \
  X(movsqboth, "movsq copies from a bad page to a bad page", "movsq", .base = RDI, .rsi_bad = true) \
  X(repmovsbto, "rep movsb copies to the page at once", "rep movsb", .base = RDI, .rsi_other = true, .rcx = 37, .aligned = true) \
  X(repmovsqto, "rep movsq copies to the page at once", "rep movsq", .base = RDI, .rsi_other = true, .rcx = 9, .aligned = true) \
  X(repmovsbboth, "rep movsb copies from a bad page to a bad page at once", "rep movsb", .base = RDI, .rsi_bad = true, .rcx = 37, .aligned = true) \
  X(repmovsqboth, "rep movsq copies from a bad page to a bad page at once", "rep movsq", .base = RDI, .rsi_bad = true, .rcx = 9, .aligned = true) \
  X(repmovsdto, "rep movsb copies to the page downwards", "rep movsb", .base = RDI, .rsi_other = true, .rcx = 11, .rounds = 11, .df = true, .aligned = true) \
  X(repmovsdboth, "rep movsb copies downwards from a bad page to a bad page", "rep movsb", .base = RDI, .rsi_bad = true, .rcx = 11, .rounds = 11, .df = true, .aligned = true)

#define REFUSALS(X) \
  X(addstrefused, "add of the register of the address is refused", "addq %rax, (%rax)", .base = RAX, .store = true) \
  X(orstrefused, "or of half the register of the address is refused", "orl %eax, (%rax)", .base = RAX, .store = true) \
  X(xaddown, "xadd with the register of the address is refused", "xaddq %rax, (%rax)", .base = RAX, .store = true) \
  X(shldown, "shld of the register of the address is refused", "shldq $3, %rax, (%rax)", .base = RAX, .store = true) \
  X(cmpxchgrax, "cmpxchg with its address in rax is refused", "cmpxchgq %rcx, (%rax)", .base = RAX, .store = true) \
  X(cmpxchg16brax, "cmpxchg16b with its address in rdx is refused", "cmpxchg16b (%rdx)", .base = RDX, .store = true, .aligned = true) \
  X(xchgrsp, "xchg with rsp is refused", "xchgq %rsp, (%rbx)", .base = RBX, .store = true) \
  X(xaddspl, "xadd with spl is refused", "xaddb %spl, (%rbx)", .base = RBX, .store = true) \
  X(btsreg, "bts with a register is refused", "xorl %ecx, %ecx\n btsl %ecx, (%rbx)", .preceded = true, .base = RBX, .store = true) \
  X(movsegst, "a store of a segment register is refused", "movw %ds, (%rbx)", .base = RBX, .store = true) \
  X(stmxcsr, "a store of the vector control word is refused", "stmxcsr (%rbx)", .base = RBX, .store = true) \
  X(fnstcw, "a store of the x87 control word is refused", "fnstcw (%rbx)", .base = RBX, .store = true) \
  X(fnstenv, "a store of the x87 environment is refused", "fnstenv (%rbx)", .base = RBX, .store = true) \
  X(fxsave, "a store of the whole vector state is refused", "fxsave64 (%rbx)", .base = RBX, .aligned = true, .store = true) \
  X(maskmov, "maskmovdqu is refused", "pcmpeqd %xmm2, %xmm2\n maskmovdqu %xmm2, %xmm1", .preceded = true, .base = RDI, .store = true) \
  X(scatter, "a scatter is refused", "vpxord %zmm1, %zmm1, %zmm1\n kxnorw %k1, %k1, %k1\n vpscatterdd %zmm3, (%rbx,%zmm1){%k1}", .preceded = true, .base = RBX, .store = true, .need = NEED_AVX512) \
  X(compress, "a compressing store is refused", "kxnorw %k1, %k1, %k1\n vpcompressd %zmm3, (%rbx){%k1}", .preceded = true, .base = RBX, .store = true, .need = NEED_AVX512) \
  X(ripst, "a store relative to RIP is refused", "movq %rcx, near_arena+0x1080(%rip)", .base = NONE, .near = true, .store = true) \
  X(absolutest, "a store to an absolute address is refused", "movq %rcx, 0x20001080", .base = NONE, .low = true, .store = true) \
  X(moffsst, "a store to an absolute address in the opcode is refused", "movabsl %eax, 0x20001080", .base = NONE, .low = true, .store = true) \
  X(addr32st, "a store to an address of 32 bits is refused", "movl %eax, (%ecx)", .base = RCX, .low = true, .store = true) \
  X(rspst, "a store with rsp as base is refused", "movq %rax, (%rsp,%rcx)", .base = RSP, IDX(RCX), .scale = 1, .store = true) \
  X(call, "call through the page is refused", "call *(%rax)", .base = RAX) \
  X(jmp, "jmp through the page is refused", "jmp *(%rax)", .base = RAX) \
  X(div, "div is refused", "divl (%rbx)", .base = RBX) \
  X(idiv, "idiv is refused", "idivq (%rbx)", .base = RBX) \
  X(btreg, "bt with a register is refused", "xorl %ecx, %ecx\n btl %ecx, (%rbx)", .preceded = true, .base = RBX) \
  X(popm, "pop to memory is refused", "pushq %rax\n popq (%rbx)", .preceded = true, .base = RBX, .push = true, .store = true) \
  X(rip, "an address relative to RIP is refused", "movq near_arena+0x1080(%rip), %rcx", .base = NONE, .near = true) \
  X(absolute, "an absolute address is refused", "movq 0x20001080, %rcx", .base = NONE, .low = true) \
  X(moffs, "an absolute address in the opcode is refused", "movabsl 0x20001080, %eax", .base = NONE, .low = true) \
  X(addr32, "an address of 32 bits is refused", "movl (%ecx), %eax", .base = RCX, .low = true) \
  X(rsp, "rsp as a base is refused", "movq (%rsp,%rcx), %rax", .base = RSP, IDX(RCX), .scale = 1) \
  X(same, "a register that is base and index is refused", "xorl %eax, %eax\n movq 0x20001080(%rax,%rax), %rcx", .preceded = true, .base = NONE, .low = true) \
  X(torsp, "a load of rsp is refused", "movq (%rax), %rsp", .base = RAX) \
  X(tospl, "a load of spl is refused", "movb (%rax), %spl", .base = RAX) \
  X(addown, "add to the register of the address is refused", "addq (%rax), %rax", .base = RAX) \
  X(cmpown, "cmp with the register of the address is refused", "cmpq %rax, (%rax)", .base = RAX) \
  X(subown, "sub from half the register of the address is refused", "subl (%rax), %eax", .base = RAX) \
  X(addhigh, "add to a high byte of the address is refused", "addb (%rax), %ah", .base = RAX) \
  X(cmovown, "cmov of 32 bits into the register of the address is refused", "cmovcl (%rax), %eax", .base = RAX) \
  X(bsfown, "bsf of 32 bits into the register of the address is refused", "bsfl (%rax), %eax", .base = RAX) \
  X(crcown, "crc32 in the register of the address is refused", "crc32q (%rax), %rax", .base = RAX, .need = NEED_SSE42) \
  X(crc8own, "crc32 of a byte in the register of the address is refused", "crc32b (%rax), %eax", .base = RAX, .need = NEED_SSE42) \
  X(adcxown, "adcx in the register of the address is refused", "adcxq (%rax), %rax", .base = RAX, .need = NEED_ADX) \
  X(estrown, "pcmpestri with its length as the address is refused", "pcmpestri $0, (%rax), %xmm1", .base = RAX, .need = NEED_SSE42) \
  X(ldmxcsr, "a load of the vector control word is refused", "ldmxcsr (%rbx)", .base = RBX) \
  X(fldcw, "a load of the x87 control word is refused", "fldcw (%rbx)", .base = RBX) \
  X(fldenv, "a load of the x87 environment is refused", "fldenv (%rbx)", .base = RBX) \
  X(fxrstor, "a load of the whole vector state is refused", "fxrstor64 (%rbx)", .base = RBX, .aligned = true) \
  X(movseg, "a load of a segment register is refused", "movw (%rbx), %ds", .base = RBX) \
  X(lfs, "a load of a far pointer is refused", "lfsl (%rbx), %ecx", .base = RBX) \
  X(gather, "a gather is refused", "vpxor %xmm1, %xmm1, %xmm1\n vpcmpeqd %xmm2, %xmm2, %xmm2\n vgatherdps %xmm2, (%rbx,%xmm1), %xmm3", .preceded = true, .base = RBX, .need = NEED_AVX2)

#define CODE(id, text, ...) \
  extern const char code_##id[] __attribute__((visibility("hidden"))); \
  extern const char end_##id[] __attribute__((visibility("hidden"))); \
  __asm__(".text\ncode_" #id ": " text "\nend_" #id ": jmp run_back\n");
#define CODE_ROW(id, sentence, ...) CODE(id, __VA_ARGS__)
#define LOAD_ROW(id, name, text, ...) {.sentence = name, .code = code_##id, .end = end_##id, __VA_ARGS__},
#define STORE_ROW(id, name, text, ...) {.sentence = name, .code = code_##id, .end = end_##id, .store = true, __VA_ARGS__},
#define REFUSAL_ROW(id, name, text, ...) {.sentence = name, .code = code_##id, .end = end_##id, .refused = true, __VA_ARGS__},

LOADS(CODE_ROW)
STORES(CODE_ROW)
REFUSALS(CODE_ROW)
static const form_t forms[] = {LOADS(LOAD_ROW) STORES(STORE_ROW) REFUSALS(REFUSAL_ROW)};

static inline bool have(need_t need) {
  unsigned a, b, c, d;
  switch (need) {
    case ANY_CPU: return true;
    case NEED_SSE3: return __builtin_cpu_supports("sse3");
    case NEED_SSSE3: return __builtin_cpu_supports("ssse3");
    case NEED_SSE41: return __builtin_cpu_supports("sse4.1");
    case NEED_SSE42: return __builtin_cpu_supports("sse4.2");
    case NEED_POPCNT: return __builtin_cpu_supports("popcnt");
    case NEED_MOVBE: return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_MOVBE) != 0;
    case NEED_AVX: return __builtin_cpu_supports("avx");
    case NEED_AVX2: return __builtin_cpu_supports("avx2");
    case NEED_FMA: return __builtin_cpu_supports("fma");
    case NEED_BMI: return __builtin_cpu_supports("bmi");
    case NEED_BMI2: return __builtin_cpu_supports("bmi2");
    case NEED_ADX: return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_ADX) != 0;
    case NEED_AVX512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  }
  return false;
}

static inline uint8_t *arena_of(const form_t *form) {
  return form->low ? low_arena : form->near ? near_arena : arena;
}

/* Chooses the registers so that the form reads at `target`. */
static inline void aim(const form_t *form, cpu_t *cpu, uint64_t target) {
  uint64_t rest = target - (uint64_t)form->disp;
  if (form->fs) {
    uint64_t fs;
    must(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs) == 0, "arch_prctl");
    rest -= fs;
  }
  if (form->sets_al) {
    cpu->gpr[RAX] &= ~0xffull;
  }
  if (form->xlat) {
    rest -= cpu->gpr[RAX] & 0xff;
  }
  if (form->index != 0) {
    int index = form->index - 1;
    if (form->base == RSP) {
      cpu->gpr[index] = rest - run_stack;
    } else if (form->base == NONE) {
      cpu->gpr[index] = rest / form->scale;
    } else {
      cpu->gpr[index] = (cpu->gpr[index] & 0xffff) + 1;
    }
    rest -= cpu->gpr[index] * form->scale;
  }
  if (form->base != NONE && form->base != RSP) {
    cpu->gpr[form->base] = rest;
  }
  if (form->rcx != 0) {
    cpu->gpr[RCX] = form->rcx;
  }
  if (form->rdi_dest) {
    cpu->gpr[RDI] = (uintptr_t)(dest + 128);
  }
  if (form->rdi_other) {
    cpu->gpr[RDI] = (uintptr_t)(other + 128);
  }
  if (form->rdi_bad) {
    cpu->gpr[RDI] = target + 2 * PAGE;
  }
  if (form->rsi_other) {
    cpu->gpr[RSI] = (uintptr_t)(other + 128);
  }
  if (form->rsi_bad) {
    cpu->gpr[RSI] = target + 2 * PAGE;
  }
  if (form->df) {
    cpu->flags |= DF;
  }
}

static inline void run_form(const form_t *form, cpu_t *cpu) {
  run_at(form->code, form->end, form->push, cpu);
}

static inline const form_t *form_named(const char *code) {
  for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
    if (forms[i].code == code) {
      return &forms[i];
    }
  }
  abort();
}

#endif
