/* insn.h: takes the bytes of an x86-64 instruction apart, as far as step.c needs to run it on other memory.
 *
 * Knows only instructions that may be redirected: what reads and writes memory is on lists here, and everything else is refused.
 * Called in signal handlers; takes no lock, calls nothing, touches only its arguments. */
#ifndef PF_INSN_H
#define PF_INSN_H

#include <stdbool.h>
#include <stdint.h>

#define PF_INSN_MAX 15    /* bytes */
#define PF_OPERAND_MAX 64 /* bytes: a zmm register; what reads or writes more is refused */

enum { RAX = 0, RCX = 1, RDX = 2, RBX = 3, RSP = 4, RBP = 5, RSI = 6, RDI = 7, NO_REGISTER = -1 };

/* Opcode maps by their number in VEX and EVEX prefixes; 4 (APX) is not known here. */
typedef enum {
  PF_MAP_ONE_BYTE = 0,
  PF_MAP_0F = 1,
  PF_MAP_0F38 = 2,
  PF_MAP_0F3A = 3,
  PF_MAP_FP16_5 = 5,
  PF_MAP_FP16_6 = 6
} pf_map_t;

typedef enum { PF_ENCODING_LEGACY, PF_ENCODING_VEX, PF_ENCODING_EVEX } pf_encoding_t;

/* Where the operand in memory is: by modrm, at rsi and rdi, or at rbx + al. */
typedef enum { PF_FORM_MODRM, PF_FORM_STRING, PF_FORM_XLAT } pf_form_t;

/* What the instruction does to the operand that modrm names. */
typedef enum { PF_ACCESS_UNKNOWN, PF_ACCESS_LOAD, PF_ACCESS_STORE, PF_ACCESS_MODIFY } pf_access_t;

/* A general register that an instruction uses as data, beside the address. */
typedef struct {
  int reg;
  uint64_t read;    /* bits whose old value shows in the result or the flags, although the memory is zero */
  uint64_t written; /* bits that are replaced; a 32-bit result replaces all 64 */
} pf_use_t;

typedef struct {
  const uint8_t *next; /* next byte to decode */
  unsigned left;       /* bytes an instruction may still have */

  pf_encoding_t encoding;
  pf_map_t map;
  uint8_t opcode;
  bool rex_present;
  bool lock;
  bool w;          /* REX.W, VEX.W, EVEX.W */
  uint8_t r, x, b; /* each 0 or 8: what extends modrm.reg, the index, the base */
  uint8_t vvvv;    /* the register in VEX and EVEX prefixes */
  bool operand16;  /* 66, or pp = 1 */
  uint8_t repeat;  /* F2, F3 or 0, whether it means rep or selects an instruction */
  uint8_t segment; /* 64 (fs), 65 (gs) or 0 */

  pf_form_t form;
  /* From here on only of PF_FORM_MODRM. */
  uint8_t mod, reg, rm; /* of modrm; reg without r */
  int base, index;      /* registers of the address, or NO_REGISTER */
  unsigned scale;       /* index is shifted left by this */
  int64_t disp;
  bool disp_is_scaled; /* EVEX: disp counts in units of a power of two that depends on the instruction */

  pf_access_t access;
  unsigned expected;  /* cmpxchg: bytes of rax that the memory is compared with; else 0 */
  bool expected_pair; /* cmpxchg8b, cmpxchg16b: as many of rdx behind them */
  pf_use_t use[2];
  unsigned uses;
} pf_insn_t;

/* Decodes the instruction at `code`: up to its opcode, and with PF_FORM_MODRM up to its displacement; what lies behind that may not be
 * mapped and is not read. False: nothing that may be redirected. */
bool pf_insn_decode(pf_insn_t *insn, const uint8_t *code);

#endif
