/* step.c: the decoder behind step.h, and the shifting and putting back of registers.
 *
 * Runs in signal handlers, on the thread that faulted. Takes no lock, calls nothing, touches only its arguments.
 *
 * What makes it safe to be wrong: an instruction is redirected only if it is on a list of instructions that read memory
 * and do not write it, and only if the address worked out from its bytes and registers is the address that faulted.
 * Everything else is refused. The shift is a multiple of 4096, so that alignment and the twelve low bits of the
 * register do not change.
 *
 * The instruction's bytes are read one by one, and never past its displacement: what lies behind it may not be mapped.
 */
#include "step.h"

#include <errno.h>

#if defined(__x86_64__) && defined(__linux__)

#include <asm/prctl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#define TRAP_FLAG 0x100u
#define DIRECTION_FLAG 0x400u /* string instructions go down */
#define PAGE_FAULT 14       /* REG_TRAPNO of a page fault, whether it arrives as SIGSEGV or SIGBUS */
#define FAULT_WAS_WRITE 2u  /* bits of REG_ERR */
#define FAULT_WAS_FETCH 16u

#define INSTRUCTION_MAX 15 /* bytes */
#define OPERAND_MAX 64     /* bytes: a zmm register; what reads more is refused */
#define SHIFT_UNIT 4096u

enum { RAX = 0, RCX = 1, RDX = 2, RBX = 3, RSP = 4, RBP = 5, RSI = 6, RDI = 7, NO_REGISTER = -1 };

typedef enum { ENCODING_LEGACY, ENCODING_VEX, ENCODING_EVEX } encoding_t;

/* Opcode maps by their number in VEX and EVEX prefixes; 4 (APX) is not known here. */
typedef enum { MAP_ONE_BYTE = 0, MAP_0F = 1, MAP_0F38 = 2, MAP_0F3A = 3, MAP_FP16_5 = 5, MAP_FP16_6 = 6 } map_t;

/* A general register that an instruction uses as data, beside the address. */
typedef struct {
  int reg;
  uint64_t read;    /* bits whose old value shows in the result or the flags, although the memory is zero */
  uint64_t written; /* bits that are replaced; a 32-bit result replaces all 64 */
} use_t;

typedef struct {
  const uint8_t *next; /* next byte to decode */
  unsigned left;       /* bytes an instruction may still have */

  encoding_t encoding;
  map_t map;
  uint8_t opcode;
  bool rex_present;
  bool w;                /* REX.W, VEX.W, EVEX.W */
  uint8_t r, x, b;       /* each 0 or 8: what extends modrm.reg, the index, the base */
  uint8_t vvvv;          /* the register in VEX and EVEX prefixes */
  bool operand16;        /* 66, or pp = 1 */
  uint8_t repeat;        /* F2, F3 or 0, whether it means rep or selects an instruction */
  uint8_t segment;       /* 64 (fs), 65 (gs) or 0 */

  uint8_t mod, reg, rm;  /* of modrm; reg without r */
  int base, index;       /* registers of the address, or NO_REGISTER */
  unsigned scale;        /* index is shifted left by this */
  int64_t disp;
  bool disp_is_scaled;   /* EVEX: disp counts in units of a power of two that depends on the instruction */

  use_t use[2];
  unsigned uses;
} insn_t;

/* A register that can be shifted: by how many bytes the address moves, as a power of two, when it grows by one. */
typedef struct {
  int reg;
  unsigned scale;
  bool string;
  uint64_t written;
  unsigned copies; /* rep movs: bytes in a round; else 0 */
  uint8_t length;  /* bytes of the instruction, when it is one that copies */
} handle_t;

/* --- the bytes --- */

static bool take(insn_t *insn, uint8_t *byte) {
  if (insn->left == 0) {
    return false;
  }
  insn->left--;
  *byte = *insn->next++;
  return true;
}

static bool take_disp(insn_t *insn, unsigned len) {
  uint32_t value = 0;
  for (unsigned i = 0; i < len; i++) {
    uint8_t byte;
    if (!take(insn, &byte)) {
      return false;
    }
    value |= (uint32_t)byte << (8 * i);
  }
  insn->disp = len == 1 ? (int64_t)(int8_t)value : (int64_t)(int32_t)value;
  return true;
}

/* pp of VEX and EVEX stands for one of the prefixes 66, F3, F2. */
static void set_pp(insn_t *insn, uint8_t pp) {
  insn->operand16 = pp == 1;
  insn->repeat = pp == 2 ? 0xf3 : pp == 3 ? 0xf2 : 0;
}

static bool take_vex2(insn_t *insn) {
  uint8_t p;
  if (!take(insn, &p)) {
    return false;
  }
  insn->encoding = ENCODING_VEX;
  insn->map = MAP_0F;
  insn->r = p & 0x80 ? 0 : 8;
  insn->vvvv = (uint8_t)(~p >> 3) & 15;
  set_pp(insn, p & 3);
  return take(insn, &insn->opcode);
}

static bool take_vex3(insn_t *insn) {
  uint8_t p0, p1;
  if (!take(insn, &p0) || !take(insn, &p1)) {
    return false;
  }
  uint8_t map = p0 & 0x1f;
  if (map < MAP_0F || map > MAP_0F3A) {
    return false;
  }
  insn->encoding = ENCODING_VEX;
  insn->map = (map_t)map;
  insn->r = p0 & 0x80 ? 0 : 8;
  insn->x = p0 & 0x40 ? 0 : 8;
  insn->b = p0 & 0x20 ? 0 : 8;
  insn->w = (p1 & 0x80) != 0;
  insn->vvvv = (uint8_t)(~p1 >> 3) & 15;
  set_pp(insn, p1 & 3);
  return take(insn, &insn->opcode);
}

static bool take_evex(insn_t *insn) {
  uint8_t p0, p1, p2;
  if (!take(insn, &p0) || !take(insn, &p1) || !take(insn, &p2)) {
    return false;
  }
  uint8_t map = p0 & 7;
  if (map == MAP_ONE_BYTE || map == 4 || map == 7) {
    return false;
  }
  /* APX names sixteen more registers with these two bits. */
  if ((p0 & 8) != 0 || (p1 & 4) == 0) {
    return false;
  }
  insn->encoding = ENCODING_EVEX;
  insn->map = (map_t)map;
  insn->r = p0 & 0x80 ? 0 : 8;
  insn->x = p0 & 0x40 ? 0 : 8;
  insn->b = p0 & 0x20 ? 0 : 8;
  insn->w = (p1 & 0x80) != 0;
  insn->vvvv = (uint8_t)(~p1 >> 3) & 15;
  set_pp(insn, p1 & 3);
  return take(insn, &insn->opcode);
}

/* Everything up to and including the opcode. */
static bool take_opcode(insn_t *insn) {
  uint8_t byte;
  for (;;) {
    if (!take(insn, &byte)) {
      return false;
    }
    if (byte >= 0x40 && byte <= 0x4f) {
      insn->rex_present = true;
      insn->w = (byte & 8) != 0;
      insn->r = byte & 4 ? 8 : 0;
      insn->x = byte & 2 ? 8 : 0;
      insn->b = byte & 1 ? 8 : 0;
      continue;
    }
    bool is_prefix = true;
    switch (byte) {
      case 0x66: insn->operand16 = true; break;
      case 0xf2:
      case 0xf3: insn->repeat = byte; break;
      case 0x64:
      case 0x65: insn->segment = byte; break;
      case 0x26: /* es, cs, ss, ds mean nothing in 64-bit code */
      case 0x2e:
      case 0x36:
      case 0x3e: break;
      case 0x67: return false; /* addresses of 32 bits */
      case 0xf0: return false; /* lock: writes */
      default: is_prefix = false;
    }
    if (!is_prefix) {
      break;
    }
    /* REX counts only directly before the opcode. */
    insn->rex_present = insn->w = false;
    insn->r = insn->x = insn->b = 0;
  }

  if (byte == 0xc5 || byte == 0xc4 || byte == 0x62) {
    if (insn->rex_present || insn->operand16 || insn->repeat != 0) {
      return false;
    }
    return byte == 0xc5 ? take_vex2(insn) : byte == 0xc4 ? take_vex3(insn) : take_evex(insn);
  }
  insn->opcode = byte;
  if (byte != 0x0f) {
    return true;
  }
  if (!take(insn, &insn->opcode)) {
    return false;
  }
  insn->map = MAP_0F;
  if (insn->opcode != 0x38 && insn->opcode != 0x3a) {
    return true;
  }
  insn->map = insn->opcode == 0x38 ? MAP_0F38 : MAP_0F3A;
  return take(insn, &insn->opcode);
}

/* modrm, sib and displacement. False when there is no memory operand that a register names. */
static bool take_address(insn_t *insn) {
  uint8_t modrm;
  if (!take(insn, &modrm)) {
    return false;
  }
  insn->mod = modrm >> 6;
  insn->reg = (modrm >> 3) & 7;
  insn->rm = modrm & 7;
  insn->base = insn->index = NO_REGISTER;
  if (insn->mod == 3) {
    return false;
  }
  if (insn->mod == 0 && insn->rm == 5) { /* RIP-relative */
    return false;
  }

  unsigned disp_len = insn->mod == 1 ? 1 : insn->mod == 2 ? 4 : 0;
  if (insn->rm == 4) {
    uint8_t sib;
    if (!take(insn, &sib)) {
      return false;
    }
    insn->scale = sib >> 6;
    int index = ((sib >> 3) & 7) | insn->x;
    if (index != RSP) {
      insn->index = index;
    }
    if (insn->mod == 0 && (sib & 7) == 5) {
      disp_len = 4;
    } else {
      insn->base = (sib & 7) | insn->b;
    }
  } else {
    insn->base = insn->rm | insn->b;
  }
  insn->disp_is_scaled = insn->encoding == ENCODING_EVEX && disp_len == 1;
  return take_disp(insn, disp_len);
}

/* --- which instructions --- */

typedef struct {
  uint8_t first, last;
} range_t;

/* Opcodes that have a modrm byte and at least one form that reads memory and does not write it. Forms that share an
 * opcode with others are told apart in `is_plain_load`. */
static const range_t loads_one_byte[] = {
  {0x02, 0x03}, {0x0a, 0x0b}, {0x12, 0x13}, {0x1a, 0x1b}, {0x22, 0x23}, {0x2a, 0x2b}, {0x32, 0x33}, /* add … xor */
  {0x38, 0x3b},                                                                                    /* cmp */
  {0x63, 0x63}, {0x69, 0x69}, {0x6b, 0x6b},                                                        /* movsxd, imul */
  {0x80, 0x81}, {0x83, 0x83},                                                                      /* cmp with a constant */
  {0x84, 0x85}, {0x8a, 0x8b},                                                                      /* test, mov */
  {0xd8, 0xdf},                                                                                    /* x87 */
  {0xf6, 0xf7}, {0xff, 0xff},                                                                      /* test, mul, imul; push */
};
static const range_t loads_0f[] = {
  {0x10, 0x10}, {0x12, 0x12}, {0x14, 0x16}, {0x28, 0x28}, {0x2a, 0x2a}, {0x2c, 0x2f}, /* moves, conversions, comis */
  {0x40, 0x4f},                                                                       /* cmov */
  {0x51, 0x70}, {0x74, 0x76}, {0x7c, 0x7e},                                           /* arithmetic, moves, compares */
  {0xaf, 0xaf}, {0xb6, 0xb8}, {0xba, 0xba}, {0xbc, 0xbf}, /* imul, movzx, popcnt, bt, bsf, bsr, movsx */
  {0xc2, 0xc2}, {0xc4, 0xc4}, {0xc6, 0xc6},               /* cmpps, pinsrw, shufps */
  {0xd0, 0xd5}, {0xd8, 0xe6}, {0xe8, 0xf6}, {0xf8, 0xfe}, /* integer vectors */
};
static const range_t loads_0f_vector[] = {
  /* VEX and EVEX */
  {0x10, 0x10}, {0x12, 0x12}, {0x14, 0x16}, {0x1d, 0x1d}, {0x28, 0x28}, {0x2a, 0x2a}, {0x2c, 0x2f},
  {0x51, 0x76}, {0x78, 0x7e}, {0x90, 0x90},
  {0xc2, 0xc2}, {0xc4, 0xc4}, {0xc6, 0xc6},
  {0xd0, 0xd5}, {0xd8, 0xe6}, {0xe8, 0xf6}, {0xf8, 0xfe},
};
static const range_t loads_0f38[] = {
  {0x00, 0x7f}, {0xc8, 0xcf}, {0xdb, 0xdf}, {0xf0, 0xf1}, {0xf6, 0xf6}, /* …, sha, aes, movbe and crc32, adcx and adox */
};
static const range_t loads_0f38_vector[] = {
  /* Without tiles (49, 4B), masked stores (2E, 2F, 8E), compression (63, 8A, 8B), gathers (90 to 93), scatters (A0 to
   * A3), prefetches (C6, C7) and cmpccxadd (E0 to EF). */
  {0x00, 0x2d}, {0x30, 0x48}, {0x4a, 0x4a}, {0x4c, 0x62}, {0x64, 0x7f}, {0x83, 0x83}, {0x88, 0x89}, {0x8c, 0x8d},
  {0x8f, 0x8f}, {0x96, 0x9f}, {0xa6, 0xc4}, {0xc8, 0xdf}, {0xf2, 0xf7},
};
static const range_t loads_0f3a[] = {
  /* Without extractions (14 to 17, 19, 1B, 39, 3B) and the store of half floats (1D). */
  {0x00, 0x13}, {0x18, 0x18}, {0x1a, 0x1a}, {0x1c, 0x1c}, {0x1e, 0x38}, {0x3a, 0x3a}, {0x3c, 0x7f}, {0xc2, 0xc2},
  {0xcc, 0xcf}, {0xf0, 0xf0},
};

static bool in_ranges(const range_t *ranges, size_t count, uint8_t opcode) {
  for (size_t i = 0; i < count; i++) {
    if (opcode >= ranges[i].first && opcode <= ranges[i].last) {
      return true;
    }
  }
  return false;
}
#define IN(ranges, opcode) in_ranges(ranges, sizeof(ranges) / sizeof((ranges)[0]), opcode)

/* Before modrm is read: is there one, and may the instruction be a load? */
static bool may_be_load(const insn_t *insn) {
  bool vector = insn->encoding != ENCODING_LEGACY;
  switch (insn->map) {
    case MAP_ONE_BYTE: return IN(loads_one_byte, insn->opcode);
    case MAP_0F: return vector ? IN(loads_0f_vector, insn->opcode) : IN(loads_0f, insn->opcode);
    case MAP_0F38: return vector ? IN(loads_0f38_vector, insn->opcode) : IN(loads_0f38, insn->opcode);
    case MAP_0F3A: return IN(loads_0f3a, insn->opcode);
    case MAP_FP16_5: return IN(loads_0f_vector, insn->opcode);
    case MAP_FP16_6: return IN(loads_0f38_vector, insn->opcode);
  }
  return false;
}

/* x87: what reads a number. Not what writes, nor loads of the control word, the environment or the whole state. */
static bool is_x87_load(uint8_t opcode, uint8_t reg) {
  switch (opcode) {
    case 0xd9: return reg == 0;             /* fld m32 */
    case 0xdb: return reg == 0 || reg == 5; /* fild m32, fld m80 */
    case 0xdd: return reg == 0;             /* fld m64 */
    case 0xdf: return reg == 0 || reg == 4 || reg == 5; /* fild m16, fbld, fild m64 */
    default: return true;                   /* arithmetic */
  }
}

/* After modrm: does this form read its memory operand, write none, and do nothing harmful with zeroes? */
static bool is_plain_load(const insn_t *insn) {
  uint8_t op = insn->opcode;
  if (insn->map == MAP_ONE_BYTE) {
    if (op == 0x80 || op == 0x81 || op == 0x83) { /* cmp */
      return insn->reg == 7;
    }
    if (op == 0xf6 || op == 0xf7) { /* not div: SIGFPE */
      return insn->reg <= 1 || insn->reg == 4 || insn->reg == 5;
    }
    if (op == 0xff) { /* push; not call, not jmp */
      return insn->reg == 6;
    }
    if (op >= 0xd8 && op <= 0xdf) {
      return is_x87_load(op, insn->reg);
    }
    return true;
  }
  if (insn->map == MAP_0F || insn->map == MAP_FP16_5) {
    if (op == 0x7e) { /* movq; the others store */
      return insn->map == MAP_0F && insn->repeat == 0xf3;
    }
    if (op == 0xba) { /* bt; not bts, btr, btc */
      return insn->reg == 4;
    }
    if (op == 0xb8) { /* popcnt */
      return insn->repeat == 0xf3;
    }
    return true;
  }
  if (insn->map == MAP_0F38 && insn->encoding == ENCODING_LEGACY) {
    if (op == 0xf1) { /* crc32; not the store of movbe */
      return insn->repeat == 0xf2;
    }
    if (op == 0xf6) { /* adcx, adox */
      return insn->operand16 || insn->repeat == 0xf3;
    }
    return true;
  }
  if (insn->map == MAP_0F38 && insn->encoding == ENCODING_EVEX) {
    return !(insn->repeat == 0xf3 && op >= 0x10 && op <= 0x35 && (op & 15) <= 5); /* stores that narrow */
  }
  return true;
}

/* --- registers used as data --- */

static void add_use(insn_t *insn, int reg, unsigned size, bool read, bool written) {
  uint64_t mask = size == 1 ? 0xff : size == 2 ? 0xffff : size == 4 ? 0xffffffff : UINT64_MAX;
  if (size == 1 && !insn->rex_present && reg >= 4) {
    reg -= 4; /* ah, ch, dh, bh */
    mask = 0xff00;
  }
  insn->use[insn->uses++] = (use_t){
    .reg = reg,
    .read = read ? mask : 0,
    .written = !written ? 0 : size == 4 ? UINT64_MAX : mask,
  };
}

static void find_uses_one_byte(insn_t *insn, unsigned size, int reg) {
  uint8_t op = insn->opcode;
  unsigned byte_or_size = op & 1 ? size : 1;
  if (op < 0x38) {
    add_use(insn, reg, byte_or_size, op != 0x22 && op != 0x23, true); /* and with zero is zero */
  } else if (op <= 0x3b) {
    add_use(insn, reg, byte_or_size, true, false);
  } else if (op == 0x63 || op == 0x69 || op == 0x6b) {
    add_use(insn, reg, size, false, true);
  } else if (op == 0x8a || op == 0x8b) {
    add_use(insn, reg, byte_or_size, false, true);
  } else if (op == 0xf6 && insn->reg >= 4) {
    add_use(insn, RAX, 2, false, true); /* ax = al * m8 */
  } else if (op == 0xf7 && insn->reg >= 4) {
    add_use(insn, RAX, size, false, true);
    add_use(insn, RDX, size, false, true);
  }
}

static void find_uses_0f(insn_t *insn, unsigned size, int reg) {
  uint8_t op = insn->opcode;
  bool converts = op == 0x2c || op == 0x2d || op == 0x78 || op == 0x79;
  if (converts && insn->repeat != 0) {
    add_use(insn, reg, 8, false, true); /* to an integer; narrower results replace all bits */
  } else if (insn->encoding != ENCODING_LEGACY) {
    return;
  } else if ((op >= 0x40 && op <= 0x4f) || op == 0xbc || op == 0xbd) {
    /* May leave the destination alone; 64 bits show that by still holding the redirected value. */
    add_use(insn, reg, size, size != 8, true);
  } else if (op == 0xaf || (op >= 0xb6 && op <= 0xb8) || op == 0xbe || op == 0xbf) {
    add_use(insn, reg, size, false, true);
  }
}

/* Lists the general registers that the instruction reads or writes as data. Vector registers need no care. */
static void find_uses(insn_t *insn) {
  unsigned size = insn->w ? 8 : insn->operand16 ? 2 : 4;
  int reg = insn->reg | insn->r;
  uint8_t op = insn->opcode;
  if (insn->map == MAP_ONE_BYTE) {
    find_uses_one_byte(insn, size, reg);
  } else if (insn->map == MAP_0F || insn->map == MAP_FP16_5) {
    find_uses_0f(insn, size, reg);
  } else if (insn->map == MAP_0F38 && op >= 0xf0) {
    if (insn->encoding != ENCODING_LEGACY) {
      /* The bit manipulations: of a zero, none depends on more than the low bits of its other source. */
      add_use(insn, reg, 8, false, true);
      add_use(insn, insn->vvvv, 8, false, true);
    } else if (op == 0xf0 && insn->repeat != 0xf2) {
      add_use(insn, reg, size, false, true); /* movbe */
    } else {
      add_use(insn, reg, insn->w ? 8 : 4, true, true); /* crc32, adcx, adox */
    }
  } else if (insn->map == MAP_0F3A && op == 0xf0) {
    add_use(insn, reg, 8, false, true); /* rorx */
  } else if (insn->map == MAP_0F3A && (op == 0x60 || op == 0x61)) {
    add_use(insn, RAX, insn->w ? 8 : 4, true, false); /* the lengths of pcmpestrm and pcmpestri */
    add_use(insn, RDX, insn->w ? 8 : 4, true, false);
  }
}

/* --- which register to shift --- */

static const uint8_t greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static uint64_t get(const ucontext_t *uc, int reg) {
  return (uint64_t)uc->uc_mcontext.gregs[greg_of[reg]];
}

static void set(ucontext_t *uc, int reg, uint64_t value) {
  uc->uc_mcontext.gregs[greg_of[reg]] = (greg_t)value;
}

/* Where fs or gs begins on this thread. The instruction rdfsbase would need a CPU and a kernel that allow it (5.9). */
static bool segment_base(uint8_t segment, uint64_t *base) {
  *base = 0;
  if (segment == 0) {
    return true;
  }
  long result = SYS_arch_prctl;
  __asm__ volatile("syscall"
                   : "+a"(result)
                   : "D"((long)(segment == 0x64 ? ARCH_GET_FS : ARCH_GET_GS)), "S"(base)
                   : "rcx", "r11", "memory");
  return result == 0;
}

/* Is `addr` a byte of an operand of `len` bytes at `start`? */
static bool covers(uint64_t start, uint64_t len, uintptr_t addr) {
  return (uint64_t)addr - start < len;
}

/* The instruction is a string instruction that loads: movs, cmps, lods or scas. The rdi of movs is not here: it is written. */
static bool is_string_load(const insn_t *insn) {
  uint8_t op = insn->opcode;
  return insn->map == MAP_ONE_BYTE && ((op >= 0xa4 && op <= 0xa7) || (op >= 0xac && op <= 0xaf));
}

static bool pick_string(const insn_t *insn, const ucontext_t *uc, uintptr_t addr, handle_t *handle) {
  uint8_t op = insn->opcode & 0xfe;
  unsigned size = !(insn->opcode & 1) ? 1 : insn->w ? 8 : insn->operand16 ? 2 : 4;
  uint64_t base;
  if (!segment_base(insn->segment, &base)) {
    return false;
  }
  *handle = (handle_t){.reg = NO_REGISTER, .string = true};
  if (op == 0xa4 && insn->repeat != 0 && insn->segment == 0) {
    handle->copies = size;
    handle->length = (uint8_t)(INSTRUCTION_MAX - insn->left);
  }
  if (op != 0xae && covers(base + get(uc, RSI), size, addr)) {
    handle->reg = RSI;
  }
  /* If both operands lie over addr, an exact match wins. Should it be the wrong one, the other one faults next. */
  if ((op == 0xae || op == 0xa6) && covers(get(uc, RDI), size, addr)) {
    if (handle->reg == NO_REGISTER || get(uc, RDI) == addr) {
      handle->reg = RDI;
    }
  }
  return handle->reg != NO_REGISTER;
}

/* May `reg` be shifted without anything but the address showing it? */
static bool can_shift(const insn_t *insn, int reg) {
  if (reg == NO_REGISTER) {
    return false;
  }
  for (unsigned i = 0; i < insn->uses; i++) {
    if (insn->use[i].reg == reg && (insn->use[i].read & ~(uint64_t)(SHIFT_UNIT - 1)) != 0) {
      return false;
    }
  }
  return true;
}

static bool address_matches(const insn_t *insn, const ucontext_t *uc, uintptr_t addr) {
  uint64_t start;
  if (!segment_base(insn->segment, &start)) {
    return false;
  }
  if (insn->base != NO_REGISTER) {
    start += get(uc, insn->base);
  }
  if (insn->index != NO_REGISTER) {
    start += get(uc, insn->index) << insn->scale;
  }
  /* EVEX: the shift does not depend on the unit of disp, so it is enough that one unit explains addr. */
  unsigned units = insn->disp_is_scaled ? 7 : 1;
  for (unsigned i = 0; i < units; i++) {
    if (covers(start + ((uint64_t)insn->disp << i), OPERAND_MAX, addr)) {
      return true;
    }
  }
  return false;
}

static bool pick_modrm(insn_t *insn, const ucontext_t *uc, uintptr_t addr, handle_t *handle) {
  if (!may_be_load(insn) || !take_address(insn) || !is_plain_load(insn)) {
    return false;
  }
  find_uses(insn);
  for (unsigned i = 0; i < insn->uses; i++) {
    if (insn->use[i].reg == RSP && insn->use[i].written != 0) {
      return false;
    }
  }
  /* rsp: the frame of the next signal goes below it. */
  if (insn->base == RSP || insn->base == insn->index) {
    return false;
  }
  if (!address_matches(insn, uc, addr)) {
    return false;
  }

  if (can_shift(insn, insn->base)) {
    *handle = (handle_t){.reg = insn->base};
  } else if (can_shift(insn, insn->index)) {
    *handle = (handle_t){.reg = insn->index, .scale = insn->scale};
  } else {
    return false;
  }
  for (unsigned i = 0; i < insn->uses; i++) {
    if (insn->use[i].reg == handle->reg) {
      handle->written |= insn->use[i].written;
    }
  }
  return true;
}

/* xlat reads the byte at rbx + al. */
static bool pick_xlat(const insn_t *insn, const ucontext_t *uc, uintptr_t addr, handle_t *handle) {
  uint64_t base;
  if (!segment_base(insn->segment, &base)) {
    return false;
  }
  *handle = (handle_t){.reg = RBX};
  return base + get(uc, RBX) + (get(uc, RAX) & 0xff) == addr;
}

/* Finds the register to shift for the load from `addr`. False when there is none. */
static bool pick_register(const ucontext_t *uc, uintptr_t addr, handle_t *handle) {
  insn_t insn = {.left = INSTRUCTION_MAX};
  insn.next = (const uint8_t *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
  if (!take_opcode(&insn)) {
    return false;
  }
  if (is_string_load(&insn)) {
    return pick_string(&insn, uc, addr, handle);
  }
  if (insn.map == MAP_ONE_BYTE && insn.opcode == 0xd7) {
    return pick_xlat(&insn, uc, addr, handle);
  }
  return pick_modrm(&insn, uc, addr, handle);
}

/* --- blocked signals --- */

#define BIT(sig) (1ull << ((sig) - 1))

/* Signals that the instruction itself can raise. Blocked, they would end the process. */
#define SYNCHRONOUS (BIT(SIGILL) | BIT(SIGTRAP) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGSEGV) | BIT(SIGSYS))

/* In a signal frame only the first 64 bits of uc_sigmask exist; behind them lies the siginfo. */
static uint64_t get_blocked(const ucontext_t *uc) {
  uint64_t blocked;
  memcpy(&blocked, &uc->uc_sigmask, sizeof blocked);
  return blocked;
}

static void set_blocked(ucontext_t *uc, uint64_t blocked) {
  memcpy(&uc->uc_sigmask, &blocked, sizeof blocked);
}

/* --- copies --- */

/* rep movs of 1, 2, 4 and 8 bytes, COPY_SPACING apart, each with a breakpoint behind it. */
#define COPY_SPACING 16
extern const uint8_t pf__step_copies[] __attribute__((visibility("hidden")));
__asm__(
  ".pushsection .text\n"
  ".balign 16\n"
  ".globl pf__step_copies\n"
  ".hidden pf__step_copies\n"
  "pf__step_copies:\n"
  "  rep movsb\n  int3\n  .balign 16\n"
  "  rep movsw\n  int3\n  .balign 16\n"
  "  rep movsl\n  int3\n  .balign 16\n"
  "  rep movsq\n  int3\n  .balign 16\n"
  ".popsection\n");

/* Takes the rep movs to ours, for the rounds that begin in the system page of addr and fit into the area. Called when
 * rsi is redirected. */
static void start_copy(pf_step_t *step, ucontext_t *uc, const handle_t *handle, uintptr_t addr, uint64_t area_end) {
  static const uint8_t lengths[] = {2, 3, 2, 3}; /* of rep movsb, movsw, movsl, movsq */
  unsigned which = (unsigned)__builtin_ctz(handle->copies);
  uint64_t from = get(uc, RSI);
  uint64_t page_end = ((uint64_t)addr | (SHIFT_UNIT - 1)) + 1 + (uint64_t)step->entry[0].delta;
  uint64_t rounds = (page_end - from + handle->copies - 1) / handle->copies;
  uint64_t fit = (area_end - from) / handle->copies;
  if (rounds > fit) {
    rounds = fit;
  }
  if (rounds > get(uc, RCX)) {
    rounds = get(uc, RCX);
  }

  step->withheld = get(uc, RCX) - rounds;
  step->length = handle->length;
  step->copy = (uintptr_t)pf__step_copies + which * COPY_SPACING;
  step->copy_end = step->copy + lengths[which] + 1;
  set(uc, RCX, rounds);
  uc->uc_mcontext.gregs[REG_RIP] = (greg_t)step->copy;
}

/* Gives back the registers of a copy, finished or not, as if the original had done its rounds. */
static void leave_copy(const pf_step_t *step, ucontext_t *uc) {
  set(uc, RSI, get(uc, RSI) - (uint64_t)step->entry[0].delta);
  set(uc, RCX, get(uc, RCX) + step->withheld);
  uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(step->rip + (get(uc, RCX) == 0 ? step->length : 0));
}

/* --- redirect and put back --- */

/* The place in the area that stands for addr: as far into its 4096 bytes, with a whole operand before and behind it. */
static bool place(uintptr_t addr, const void *zeroes, size_t zeroes_len, uint64_t *target) {
  if (covers((uintptr_t)zeroes, zeroes_len, addr)) {
    return false;
  }
  uint64_t first = (uintptr_t)zeroes + OPERAND_MAX;
  uint64_t last = (uintptr_t)zeroes + zeroes_len - OPERAND_MAX;
  *target = first + (((uint64_t)addr - first) & (SHIFT_UNIT - 1));
  return *target <= last;
}

int pf_step_redirect(pf_step_t *step, ucontext_t *uc, uintptr_t addr, const void *zeroes, size_t zeroes_len) {
  greg_t *gregs = uc->uc_mcontext.gregs;
  uint64_t rip = (uint64_t)gregs[REG_RIP];
  bool stepping = (gregs[REG_EFL] & TRAP_FLAG) != 0;
  if (step->count == PF_STEP_OPERANDS) {
    return -ENOTSUP;
  }
  if (step->count != 0 && (!stepping || step->rip != rip)) {
    return -ENOTSUP;
  }
  if (gregs[REG_TRAPNO] == PAGE_FAULT && (gregs[REG_ERR] & (FAULT_WAS_WRITE | FAULT_WAS_FETCH)) != 0) {
    return -ENOTSUP;
  }
  if (covers(rip, INSTRUCTION_MAX, addr)) {
    return -ENOTSUP;
  }

  uint64_t target;
  handle_t handle;
  if (!place(addr, zeroes, zeroes_len, &target)) {
    return -ENOTSUP;
  }
  if (!pick_register(uc, addr, &handle)) {
    return -ENOTSUP;
  }
  for (unsigned i = 0; i < step->count; i++) {
    if (step->entry[i].reg == handle.reg) {
      return -ENOTSUP;
    }
  }

  /* A multiple of 4096, so that a scaled index can take its part of it. */
  int64_t delta = (int64_t)(target - addr) / ((int64_t)1 << handle.scale);
  uint64_t redirected = get(uc, handle.reg) + (uint64_t)delta;
  /* A destination that held 0 could not be told from one that was loaded. */
  if (handle.written != 0 && redirected == 0) {
    return -ENOTSUP;
  }

  if (step->count == 0) {
    step->rip = rip;
    step->trap_was_set = stepping;
    step->blocked_then = get_blocked(uc);
    set_blocked(uc, ~SYNCHRONOUS);
  }
  step->entry[step->count++] = (pf_step_entry_t){
    .reg = (int8_t)handle.reg,
    .string = handle.string,
    .written = handle.written,
    .delta = delta,
    .redirected = redirected,
  };
  set(uc, handle.reg, redirected);
  step->copy = 0;
  if (handle.copies != 0 && !stepping && (gregs[REG_EFL] & DIRECTION_FLAG) == 0) {
    start_copy(step, uc, &handle, addr, (uintptr_t)zeroes + zeroes_len);
  } else {
    gregs[REG_EFL] |= TRAP_FLAG;
  }
  return 0;
}

/* What the register has to hold after the instruction has run. */
static uint64_t put_back(const pf_step_entry_t *entry, uint64_t now) {
  uint64_t original = entry->redirected - (uint64_t)entry->delta;
  if (entry->string) {
    return now - (uint64_t)entry->delta;
  }
  if (entry->written != 0 && entry->written != UINT64_MAX) {
    return (original & ~entry->written) | (now & entry->written); /* mov (%rax), %al */
  }
  return now == entry->redirected ? original : now; /* now: it loaded into the register of its own address */
}

static void leave(pf_step_t *step, ucontext_t *uc) {
  if (!step->trap_was_set) {
    uc->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
  }
  set_blocked(uc, step->blocked_then);
  step->count = 0;
}

bool pf_step_finish(pf_step_t *step, ucontext_t *uc) {
  uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
  if (step->count == 0) {
    return false;
  }
  if (step->copy != 0) {
    if (rip != step->copy_end) {
      return false;
    }
    leave_copy(step, uc);
    leave(step, uc);
    return true;
  }
  if ((uc->uc_mcontext.gregs[REG_EFL] & TRAP_FLAG) == 0) {
    return false;
  }
  if (!covers(step->rip, INSTRUCTION_MAX + 1, rip)) { /* with rep, RIP stays until the last round */
    return false;
  }
  for (unsigned i = 0; i < step->count; i++) {
    const pf_step_entry_t *entry = &step->entry[i];
    set(uc, entry->reg, put_back(entry, get(uc, entry->reg)));
  }
  leave(step, uc);
  return true;
}

bool pf_step_cancel(pf_step_t *step, ucontext_t *uc) {
  uint64_t rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
  if (step->count == 0) {
    return false;
  }
  if (step->copy != 0) {
    if (rip != step->copy) {
      return false;
    }
    leave_copy(step, uc);
    leave(step, uc);
    return true;
  }
  if (step->rip != rip) {
    return false;
  }
  for (unsigned i = 0; i < step->count; i++) {
    if (get(uc, step->entry[i].reg) != step->entry[i].redirected) {
      return false;
    }
  }
  for (unsigned i = 0; i < step->count; i++) {
    set(uc, step->entry[i].reg, step->entry[i].redirected - (uint64_t)step->entry[i].delta);
  }
  leave(step, uc);
  return true;
}

#else

/* Single-stepping one instruction from user space exists only on x86: arm64 has no trap flag that a program may set. */
int pf_step_redirect(pf_step_t *step, ucontext_t *uc, uintptr_t addr, const void *zeroes, size_t zeroes_len) {
  (void)step, (void)uc, (void)addr, (void)zeroes, (void)zeroes_len;
  return -ENOTSUP;
}

bool pf_step_finish(pf_step_t *step, ucontext_t *uc) {
  (void)step, (void)uc;
  return false;
}

bool pf_step_cancel(pf_step_t *step, ucontext_t *uc) {
  (void)step, (void)uc;
  return false;
}

#endif
