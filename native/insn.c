/* insn.c: the decoder behind insn.h: prefixes, opcode, address; what is a load and what writes; which registers are data.
 *
 * Runs in signal handlers, on the thread that faulted. Takes no lock, calls nothing, touches only its arguments.
 *
 * The instruction's bytes are read one by one, and never past its displacement: what lies behind it may not be mapped.
 */
#include "insn.h"

#include <stddef.h>

#if defined(__x86_64__)

/* --- the bytes --- */

static bool take(pf_insn_t *insn, uint8_t *byte) {
  if (insn->left == 0) {
    return false;
  }
  insn->left--;
  *byte = *insn->next++;
  return true;
}

static bool take_disp(pf_insn_t *insn, unsigned len) {
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
static void set_pp(pf_insn_t *insn, uint8_t pp) {
  insn->operand16 = pp == 1;
  insn->repeat = pp == 2 ? 0xf3 : pp == 3 ? 0xf2 : 0;
}

static bool take_vex2(pf_insn_t *insn) {
  uint8_t p;
  if (!take(insn, &p)) {
    return false;
  }
  insn->encoding = PF_ENCODING_VEX;
  insn->map = PF_MAP_0F;
  insn->r = p & 0x80 ? 0 : 8;
  insn->vvvv = (uint8_t)(~p >> 3) & 15;
  set_pp(insn, p & 3);
  return take(insn, &insn->opcode);
}

/* What the long prefixes have in common, and the opcode behind them. */
static bool take_registers(pf_insn_t *insn, uint8_t map, uint8_t p0, uint8_t p1) {
  insn->map = (pf_map_t)map;
  insn->r = p0 & 0x80 ? 0 : 8;
  insn->x = p0 & 0x40 ? 0 : 8;
  insn->b = p0 & 0x20 ? 0 : 8;
  insn->w = (p1 & 0x80) != 0;
  insn->vvvv = (uint8_t)(~p1 >> 3) & 15;
  set_pp(insn, p1 & 3);
  return take(insn, &insn->opcode);
}

static bool take_vex3(pf_insn_t *insn) {
  uint8_t p0, p1;
  if (!take(insn, &p0) || !take(insn, &p1)) {
    return false;
  }
  uint8_t map = p0 & 0x1f;
  if (map < PF_MAP_0F || map > PF_MAP_0F3A) {
    return false;
  }
  insn->encoding = PF_ENCODING_VEX;
  return take_registers(insn, map, p0, p1);
}

static bool take_evex(pf_insn_t *insn) {
  uint8_t p0, p1, p2;
  if (!take(insn, &p0) || !take(insn, &p1) || !take(insn, &p2)) {
    return false;
  }
  uint8_t map = p0 & 7;
  if (map == PF_MAP_ONE_BYTE || map == 4 || map == 7) {
    return false;
  }
  /* APX names sixteen more registers with these two bits. */
  if ((p0 & 8) != 0 || (p1 & 4) == 0) {
    return false;
  }
  insn->encoding = PF_ENCODING_EVEX;
  return take_registers(insn, map, p0, p1);
}

/* Everything up to and including the opcode. */
static bool take_opcode(pf_insn_t *insn) {
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
      case 0xf0: insn->lock = true; break;
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
    if (insn->rex_present || insn->operand16 || insn->repeat != 0 || insn->lock) {
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
  insn->map = PF_MAP_0F;
  if (insn->opcode != 0x38 && insn->opcode != 0x3a) {
    return true;
  }
  insn->map = insn->opcode == 0x38 ? PF_MAP_0F38 : PF_MAP_0F3A;
  return take(insn, &insn->opcode);
}

/* modrm, sib and displacement. False when there is no memory operand that a register names. */
static bool take_address(pf_insn_t *insn) {
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
  insn->disp_is_scaled = insn->encoding == PF_ENCODING_EVEX && disp_len == 1;
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

/* Opcodes that have a modrm byte and at least one form that writes memory. Told apart in `writing_access`. */
static const range_t writes_one_byte[] = {
  {0x00, 0x01}, {0x08, 0x09}, {0x10, 0x11}, {0x18, 0x19}, {0x20, 0x21}, {0x28, 0x29}, {0x30, 0x31}, /* add … xor */
  {0x80, 0x81}, {0x83, 0x83}, {0x86, 0x89},                                                        /* add … xor, xchg, mov */
  {0xc0, 0xc1}, {0xc6, 0xc7}, {0xd0, 0xd3},                                                        /* shifts, mov */
  {0xd8, 0xdf}, {0xf6, 0xf7}, {0xfe, 0xff},                                                        /* x87; not, neg; inc, dec */
};
static const range_t writes_0f[] = {
  {0x11, 0x11}, {0x13, 0x13}, {0x17, 0x17}, {0x29, 0x29}, {0x2b, 0x2b}, {0x7e, 0x7f}, /* moves */
  {0x90, 0x9f}, {0xa4, 0xa5}, {0xac, 0xad}, {0xb0, 0xb1}, {0xba, 0xba},               /* set, shld, shrd, cmpxchg, bts … btc */
  {0xc0, 0xc1}, {0xc3, 0xc3}, {0xc7, 0xc7}, {0xd6, 0xd6}, {0xe7, 0xe7},               /* xadd, movnti, cmpxchg16b, moves */
};
static const range_t writes_0f_vector[] = {
  {0x11, 0x11}, {0x13, 0x13}, {0x17, 0x17}, {0x29, 0x29}, {0x2b, 0x2b}, {0x7e, 0x7f}, {0x91, 0x91}, {0xd6, 0xd6}, {0xe7, 0xe7},
};
static const range_t writes_fp16_5[] = {{0x11, 0x11}, {0x7e, 0x7e}};
static const range_t writes_0f38[] = {{0xf1, 0xf1}};                                  /* movbe */
static const range_t writes_0f38_vex[] = {{0x2e, 0x2f}, {0x8e, 0x8e}};                /* masked moves */
static const range_t writes_0f38_evex[] = {{0x10, 0x15}, {0x20, 0x25}, {0x30, 0x35}}; /* moves that narrow */
static const range_t writes_0f3a[] = {{0x14, 0x17}};                                  /* extractions */
static const range_t writes_0f3a_vector[] = {
  {0x14, 0x17}, {0x19, 0x19}, {0x1b, 0x1b}, {0x1d, 0x1d}, {0x39, 0x39}, {0x3b, 0x3b}, /* … and the store of half floats */
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
static bool may_be_load(const pf_insn_t *insn) {
  bool vector = insn->encoding != PF_ENCODING_LEGACY;
  switch (insn->map) {
    case PF_MAP_ONE_BYTE: return IN(loads_one_byte, insn->opcode);
    case PF_MAP_0F: return vector ? IN(loads_0f_vector, insn->opcode) : IN(loads_0f, insn->opcode);
    case PF_MAP_0F38: return vector ? IN(loads_0f38_vector, insn->opcode) : IN(loads_0f38, insn->opcode);
    case PF_MAP_0F3A: return IN(loads_0f3a, insn->opcode);
    case PF_MAP_FP16_5: return IN(loads_0f_vector, insn->opcode);
    case PF_MAP_FP16_6: return IN(loads_0f38_vector, insn->opcode);
  }
  return false;
}

/* Before modrm is read: is there one, and may the instruction write? */
static bool may_write(const pf_insn_t *insn) {
  bool vector = insn->encoding != PF_ENCODING_LEGACY;
  switch (insn->map) {
    case PF_MAP_ONE_BYTE: return IN(writes_one_byte, insn->opcode);
    case PF_MAP_0F: return vector ? IN(writes_0f_vector, insn->opcode) : IN(writes_0f, insn->opcode);
    case PF_MAP_0F38:
      if (!vector) {
        return IN(writes_0f38, insn->opcode);
      }
      return insn->encoding == PF_ENCODING_EVEX ? IN(writes_0f38_evex, insn->opcode) : IN(writes_0f38_vex, insn->opcode);
    case PF_MAP_0F3A: return vector ? IN(writes_0f3a_vector, insn->opcode) : IN(writes_0f3a, insn->opcode);
    case PF_MAP_FP16_5: return IN(writes_fp16_5, insn->opcode);
    case PF_MAP_FP16_6: return false;
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
static bool is_plain_load(const pf_insn_t *insn) {
  uint8_t op = insn->opcode;
  if (insn->map == PF_MAP_ONE_BYTE) {
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
  if (insn->map == PF_MAP_0F || insn->map == PF_MAP_FP16_5) {
    if (op == 0x7e) { /* movq; the others store */
      return insn->map == PF_MAP_0F && insn->repeat == 0xf3;
    }
    if (op == 0xba) { /* bt; not bts, btr, btc */
      return insn->reg == 4;
    }
    if (op == 0xb8) { /* popcnt */
      return insn->repeat == 0xf3;
    }
    return true;
  }
  if (insn->map == PF_MAP_0F38 && insn->encoding == PF_ENCODING_LEGACY) {
    if (op == 0xf1) { /* crc32; not the store of movbe */
      return insn->repeat == 0xf2;
    }
    if (op == 0xf6) { /* adcx, adox */
      return insn->operand16 || insn->repeat == 0xf3;
    }
    return true;
  }
  if (insn->map == PF_MAP_0F38 && insn->encoding == PF_ENCODING_EVEX) {
    return !(insn->repeat == 0xf3 && op >= 0x10 && op <= 0x35 && (op & 15) <= 5); /* stores that narrow */
  }
  return true;
}

/* x87: what writes a number. Not the control and status words, the environment or the whole state. */
static bool is_x87_store(uint8_t opcode, uint8_t reg) {
  switch (opcode) {
    case 0xd9: return reg == 2 || reg == 3;             /* fst, fstp m32 */
    case 0xdb: return (reg >= 1 && reg <= 3) || reg == 7; /* fisttp, fist, fistp m32, fstp m80 */
    case 0xdd: return reg >= 1 && reg <= 3;             /* fisttp, fst, fstp m64 */
    case 0xdf: return (reg >= 1 && reg <= 3) || reg >= 6; /* fisttp, fist, fistp m16, fbstp, fistp m64 */
    default: return false;
  }
}

static pf_access_t writing_access_one_byte(const pf_insn_t *insn) {
  uint8_t op = insn->opcode;
  bool modifies = true;
  if (op == 0x88 || op == 0x89) { /* mov */
    return PF_ACCESS_STORE;
  }
  if (op == 0xc6 || op == 0xc7) { /* mov of a constant */
    return insn->reg == 0 ? PF_ACCESS_STORE : PF_ACCESS_UNKNOWN;
  }
  if (op >= 0xd8 && op <= 0xdf) {
    return is_x87_store(op, insn->reg) ? PF_ACCESS_STORE : PF_ACCESS_UNKNOWN;
  }
  if (op == 0xc0 || op == 0xc1 || (op >= 0xd0 && op <= 0xd3)) { /* rotations and shifts */
    modifies = insn->reg != 6;
  } else if (op == 0xf6 || op == 0xf7) { /* not, neg */
    modifies = insn->reg == 2 || insn->reg == 3;
  } else if (op == 0xfe || op == 0xff) { /* inc, dec */
    modifies = insn->reg <= 1;
  }
  return modifies ? PF_ACCESS_MODIFY : PF_ACCESS_UNKNOWN;
}

/* After modrm: how does this form, which is no load, write its memory operand? */
static pf_access_t writing_access(const pf_insn_t *insn) {
  uint8_t op = insn->opcode;
  if (insn->map == PF_MAP_ONE_BYTE) {
    return writing_access_one_byte(insn);
  }
  if (insn->map == PF_MAP_0F38 && insn->encoding == PF_ENCODING_EVEX) {
    return insn->repeat == 0xf3 ? PF_ACCESS_STORE : PF_ACCESS_UNKNOWN;
  }
  if (insn->map != PF_MAP_0F || insn->encoding != PF_ENCODING_LEGACY) {
    return PF_ACCESS_STORE;
  }
  if (op == 0xba) { /* bts, btr, btc */
    return insn->reg >= 5 ? PF_ACCESS_MODIFY : PF_ACCESS_UNKNOWN;
  }
  if (op == 0xc7) { /* cmpxchg8b, cmpxchg16b */
    return insn->reg == 1 ? PF_ACCESS_MODIFY : PF_ACCESS_UNKNOWN;
  }
  bool modifies = (op >= 0xa4 && op <= 0xb1) || op == 0xc0 || op == 0xc1;
  return modifies ? PF_ACCESS_MODIFY : PF_ACCESS_STORE;
}

/* --- registers used as data --- */

static void add_use(pf_insn_t *insn, int reg, unsigned size, bool read, bool written) {
  uint64_t mask = size == 1 ? 0xff : size == 2 ? 0xffff : size == 4 ? 0xffffffff : UINT64_MAX;
  if (size == 1 && !insn->rex_present && reg >= 4) {
    reg -= 4; /* ah, ch, dh, bh */
    mask = 0xff00;
  }
  insn->use[insn->uses++] = (pf_use_t){
    .reg = reg,
    .read = read ? mask : 0,
    .written = !written ? 0 : size == 4 ? UINT64_MAX : mask,
  };
}

static void find_uses_one_byte(pf_insn_t *insn, unsigned size, int reg) {
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

static void find_uses_0f(pf_insn_t *insn, unsigned size, int reg) {
  uint8_t op = insn->opcode;
  bool converts = op == 0x2c || op == 0x2d || op == 0x78 || op == 0x79;
  if (converts && insn->repeat != 0) {
    add_use(insn, reg, 8, false, true); /* to an integer; narrower results replace all bits */
  } else if (insn->encoding != PF_ENCODING_LEGACY) {
    return;
  } else if ((op >= 0x40 && op <= 0x4f) || op == 0xbc || op == 0xbd) {
    /* May leave the destination alone; 64 bits show that by still holding the redirected value. */
    add_use(insn, reg, size, size != 8, true);
  } else if (op == 0xaf || (op >= 0xb6 && op <= 0xb8) || op == 0xbe || op == 0xbf) {
    add_use(insn, reg, size, false, true);
  }
}

/* Of what reads and writes memory. What is only stored needs no care: nobody sees it. */
static void find_uses_of_modify(pf_insn_t *insn) {
  unsigned size = insn->w ? 8 : insn->operand16 ? 2 : 4;
  unsigned byte_or_size = insn->opcode & 1 ? size : 1;
  int reg = insn->reg | insn->r;
  uint8_t op = insn->opcode;
  if (insn->map == PF_MAP_ONE_BYTE) {
    if (op < 0x38) {
      add_use(insn, reg, byte_or_size, op != 0x20 && op != 0x21, false); /* and with zero is zero */
    } else if (op == 0x86 || op == 0x87) {
      add_use(insn, reg, byte_or_size, false, true); /* xchg */
    } else if (op == 0xd2 || op == 0xd3) {
      add_use(insn, RCX, 1, true, false);
    }
    return;
  }
  if (op == 0xa4 || op == 0xa5 || op == 0xac || op == 0xad) {
    add_use(insn, reg, size, true, false); /* shld, shrd */
    add_use(insn, RCX, 1, true, false);
  } else if (op == 0xb0 || op == 0xb1) {
    insn->expected = byte_or_size;
    add_use(insn, RAX, byte_or_size, true, true);
  } else if (op == 0xc0 || op == 0xc1) {
    add_use(insn, reg, byte_or_size, true, true); /* xadd */
  } else if (op == 0xc7) {
    insn->expected = insn->w ? 8 : 4;
    insn->expected_pair = true;
    add_use(insn, RAX, 8, true, true);
    add_use(insn, RDX, 8, true, true);
  }
}

/* Lists the general registers that a load reads or writes as data. Vector registers need no care. */
static void find_uses_of_load(pf_insn_t *insn) {
  unsigned size = insn->w ? 8 : insn->operand16 ? 2 : 4;
  int reg = insn->reg | insn->r;
  uint8_t op = insn->opcode;
  if (insn->map == PF_MAP_ONE_BYTE) {
    find_uses_one_byte(insn, size, reg);
  } else if (insn->map == PF_MAP_0F || insn->map == PF_MAP_FP16_5) {
    find_uses_0f(insn, size, reg);
  } else if (insn->map == PF_MAP_0F38 && op >= 0xf0) {
    if (insn->encoding != PF_ENCODING_LEGACY) {
      /* The bit manipulations: of a zero, none depends on more than the low bits of its other source. */
      add_use(insn, reg, 8, false, true);
      add_use(insn, insn->vvvv, 8, false, true);
    } else if (op == 0xf0 && insn->repeat != 0xf2) {
      add_use(insn, reg, size, false, true); /* movbe */
    } else {
      add_use(insn, reg, insn->w ? 8 : 4, true, true); /* crc32, adcx, adox */
    }
  } else if (insn->map == PF_MAP_0F3A && op == 0xf0) {
    add_use(insn, reg, 8, false, true); /* rorx */
  } else if (insn->map == PF_MAP_0F3A && (op == 0x60 || op == 0x61)) {
    add_use(insn, RAX, insn->w ? 8 : 4, true, false); /* the lengths of pcmpestrm and pcmpestri */
    add_use(insn, RDX, insn->w ? 8 : 4, true, false);
  }
}

/* --- all of it --- */

/* movs, cmps, stos, lods, scas. Not ins and outs. */
static bool is_string(const pf_insn_t *insn) {
  uint8_t op = insn->opcode;
  return insn->map == PF_MAP_ONE_BYTE && ((op >= 0xa4 && op <= 0xa7) || (op >= 0xaa && op <= 0xaf));
}

bool pf_insn_decode(pf_insn_t *insn, const uint8_t *code) {
  *insn = (pf_insn_t){.next = code, .left = PF_INSN_MAX};
  if (!take_opcode(insn)) {
    return false;
  }
  if (is_string(insn) || (insn->map == PF_MAP_ONE_BYTE && insn->opcode == 0xd7)) {
    insn->form = insn->opcode == 0xd7 ? PF_FORM_XLAT : PF_FORM_STRING;
    return !insn->lock;
  }
  insn->form = PF_FORM_MODRM;
  bool loads = may_be_load(insn), writes = may_write(insn);
  if ((!loads && !writes) || !take_address(insn)) {
    return false;
  }
  if (loads && is_plain_load(insn)) {
    insn->access = PF_ACCESS_LOAD;
    find_uses_of_load(insn);
  } else if (writes) {
    insn->access = writing_access(insn);
    if (insn->access == PF_ACCESS_MODIFY) {
      find_uses_of_modify(insn);
    }
  }
  return insn->access != PF_ACCESS_UNKNOWN && (!insn->lock || insn->access == PF_ACCESS_MODIFY);
}

#else

/* arm64 instructions are not stepped: see step.c. */
bool pf_insn_decode(pf_insn_t *insn, const uint8_t *code) {
  (void)insn, (void)code;
  return false;
}

#endif
