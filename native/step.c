/* step.c: the shifting and putting back of registers behind step.h. What the instruction does is for insn.c to say.
 *
 * Runs in signal handlers, on the thread that faulted. Takes no lock, calls nothing that does, touches only its arguments and the sink.
 *
 * What makes it safe to be wrong: an instruction is redirected only if it is on a list of instructions whose one access to
 * memory is known, only if it is a load where the fault was a read and writes where it was a write, and only if the address
 * worked out from its bytes and registers is the address that faulted. Everything else is refused. The shift is a multiple
 * of 4096, so that alignment and the twelve low bits of the register do not change.
 */
#include "step.h"

#include <errno.h>

#if defined(__x86_64__) && defined(__linux__)

#include "insn.h"

#include <asm/prctl.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#define TRAP_FLAG 0x100u
#define DIRECTION_FLAG 0x400u /* string instructions go down */
#define PAGE_FAULT 14         /* REG_TRAPNO of a page fault, whether it arrives as SIGSEGV or SIGBUS */
#define FAULT_WAS_WRITE 2u    /* bits of REG_ERR */
#define FAULT_WAS_FETCH 16u
#define SHIFT_UNIT 4096u

typedef struct {
  uintptr_t addr;
  bool write;
} fault_t;

/* A register that can be shifted: by how many bytes the address moves, as a power of two, when it grows by one. */
typedef struct {
  int reg;
  unsigned scale;
  bool string;
  uint64_t written;
  pf_access_t access;
  uint64_t operand;   /* with PF_ACCESS_MODIFY: where it begins */
  unsigned expected;  /* as in pf_insn_t */
  bool expected_pair;
  unsigned copies; /* rep movs and rep stos: bytes in a round; else 0 */
  bool fills;      /* it is rep stos */
  uint8_t length;  /* bytes of the instruction, when it is one that copies */
} handle_t;

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

/* movs and stos write at rdi; what reads, reads at rsi, and scas and cmps at rdi as well. */
static bool pick_string(const pf_insn_t *insn, const ucontext_t *uc, const fault_t *fault, handle_t *handle) {
  uint8_t op = insn->opcode & 0xfe;
  bool is_movs = op == 0xa4, is_stos = op == 0xaa;
  unsigned size = !(insn->opcode & 1) ? 1 : insn->w ? 8 : insn->operand16 ? 2 : 4;
  uint64_t base;
  if (!segment_base(insn->segment, &base)) {
    return false;
  }
  if (fault->write ? !is_movs && !is_stos : is_stos) {
    return false;
  }
  *handle = (handle_t){.reg = NO_REGISTER, .string = true, .access = fault->write ? PF_ACCESS_STORE : PF_ACCESS_LOAD};
  if ((is_movs || is_stos) && insn->repeat != 0 && insn->segment == 0) {
    handle->copies = size;
    handle->fills = is_stos;
    handle->length = (uint8_t)(PF_INSN_MAX - insn->left);
  }
  bool at_rsi = !fault->write && op != 0xae, at_rdi = fault->write || op == 0xae || op == 0xa6;
  if (at_rsi && covers(base + get(uc, RSI), size, fault->addr)) {
    handle->reg = RSI;
  }
  /* If both operands lie over addr, an exact match wins. Should it be the wrong one, the other one faults next. */
  if (at_rdi && covers(get(uc, RDI), size, fault->addr)) {
    if (handle->reg == NO_REGISTER || get(uc, RDI) == fault->addr) {
      handle->reg = RDI;
    }
  }
  return handle->reg != NO_REGISTER;
}

/* May `reg` be shifted without anything but the address showing it? */
static bool can_shift(const pf_insn_t *insn, int reg) {
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

/* Does the operand cover addr? Its first byte is `*operand`. */
static bool address_matches(const pf_insn_t *insn, const ucontext_t *uc, uintptr_t addr, uint64_t *operand) {
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
    *operand = start + ((uint64_t)insn->disp << i);
    if (covers(*operand, PF_OPERAND_MAX, addr)) {
      return true;
    }
  }
  return false;
}

static bool pick_modrm(const pf_insn_t *insn, const ucontext_t *uc, const fault_t *fault, handle_t *handle) {
  /* What reads and writes is reported as a write by the processors known, but that is nowhere promised. */
  if (fault->write ? insn->access == PF_ACCESS_LOAD : insn->access == PF_ACCESS_STORE) {
    return false;
  }
  for (unsigned i = 0; i < insn->uses; i++) {
    if (insn->use[i].reg == RSP && insn->use[i].written != 0) {
      return false;
    }
  }
  /* rsp: the frame of the next signal goes below it. */
  if (insn->base == RSP || insn->base == insn->index) {
    return false;
  }
  uint64_t operand;
  if (!address_matches(insn, uc, fault->addr, &operand)) {
    return false;
  }

  if (can_shift(insn, insn->base)) {
    *handle = (handle_t){.reg = insn->base};
  } else if (can_shift(insn, insn->index)) {
    *handle = (handle_t){.reg = insn->index, .scale = insn->scale};
  } else {
    return false;
  }
  handle->access = insn->access;
  handle->operand = operand;
  handle->expected = insn->expected;
  handle->expected_pair = insn->expected_pair;
  for (unsigned i = 0; i < insn->uses; i++) {
    if (insn->use[i].reg == handle->reg) {
      handle->written |= insn->use[i].written;
    }
  }
  return true;
}

/* xlat reads the byte at rbx + al. */
static bool pick_xlat(const pf_insn_t *insn, const ucontext_t *uc, const fault_t *fault, handle_t *handle) {
  uint64_t base;
  if (fault->write || !segment_base(insn->segment, &base)) {
    return false;
  }
  *handle = (handle_t){.reg = RBX, .access = PF_ACCESS_LOAD};
  return base + get(uc, RBX) + (get(uc, RAX) & 0xff) == fault->addr;
}

/* Finds the register to shift for the access that faulted. False when there is none. */
static bool pick_register(const ucontext_t *uc, const fault_t *fault, handle_t *handle) {
  pf_insn_t insn;
  if (!pf_insn_decode(&insn, (const uint8_t *)(uintptr_t)uc->uc_mcontext.gregs[REG_RIP])) {
    return false;
  }
  switch (insn.form) {
    case PF_FORM_STRING: return pick_string(&insn, uc, fault, handle);
    case PF_FORM_XLAT: return pick_xlat(&insn, uc, fault, handle);
    case PF_FORM_MODRM: return pick_modrm(&insn, uc, fault, handle);
  }
  return false;
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

/* rep movs and rep stos of 1, 2, 4 and 8 bytes, COPY_SPACING apart, each with a breakpoint behind it. */
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
  "  rep stosb\n  int3\n  .balign 16\n"
  "  rep stosw\n  int3\n  .balign 16\n"
  "  rep stosl\n  int3\n  .balign 16\n"
  "  rep stosq\n  int3\n  .balign 16\n"
  ".popsection\n");

static bool in_copy(const pf_step_t *step, const ucontext_t *uc) {
  return step->copy != 0 && (uint64_t)uc->uc_mcontext.gregs[REG_RIP] == step->copy;
}

/* Takes the rep movs or rep stos to ours. */
static void start_copy(pf_step_t *step, ucontext_t *uc, const handle_t *handle) {
  static const uint8_t lengths[] = {2, 3, 2, 3}; /* of rep movsb, movsw, movsl, movsq; those of stos are the same */
  unsigned size = (unsigned)__builtin_ctz(handle->copies);
  step->withheld = 0;
  step->length = handle->length;
  step->copy = (uintptr_t)pf__step_copies + (size + (handle->fills ? 4 : 0)) * COPY_SPACING;
  step->copy_end = step->copy + lengths[size] + 1;
  uc->uc_mcontext.gregs[REG_RIP] = (greg_t)step->copy;
}

/* Leaves a copy the rounds that begin in the system page of addr and fit into the area. Called when the register is redirected. */
static void limit_copy(pf_step_t *step, ucontext_t *uc, const handle_t *handle, uintptr_t addr, uint64_t area_end) {
  uint64_t start = get(uc, handle->reg), rounds = get(uc, RCX);
  uint64_t page_end = ((uint64_t)addr | (SHIFT_UNIT - 1)) + 1 + (uint64_t)step->entry[step->count - 1].delta;
  uint64_t in_page = (page_end - start + handle->copies - 1) / handle->copies;
  uint64_t fit = (area_end - start) / handle->copies;
  uint64_t most = in_page < fit ? in_page : fit;
  if (rounds > most) {
    step->withheld += rounds - most;
    set(uc, RCX, most);
  }
}

/* Gives back the registers of a copy, finished or not, as if the original had done its rounds. */
static void leave_copy(const pf_step_t *step, ucontext_t *uc) {
  for (unsigned i = 0; i < step->count; i++) {
    int reg = step->entry[i].reg;
    set(uc, reg, get(uc, reg) - (uint64_t)step->entry[i].delta);
  }
  set(uc, RCX, get(uc, RCX) + step->withheld);
  uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(step->rip + (get(uc, RCX) == 0 ? step->length : 0));
}

/* --- redirect and put back --- */

/* The place in an area that stands for addr: as far into its 4096 bytes, with a whole operand before and behind it. */
static bool place(uintptr_t addr, const void *area, size_t len, uint64_t *target) {
  uint64_t first = (uintptr_t)area + PF_OPERAND_MAX;
  uint64_t last = (uintptr_t)area + len - PF_OPERAND_MAX;
  *target = first + (((uint64_t)addr - first) & (SHIFT_UNIT - 1));
  return *target <= last;
}

/* What an instruction that reads and writes finds in the sink: zeroes, or what it compares them with. */
static void fill_operand(const handle_t *handle, const ucontext_t *uc, uint8_t *operand) {
  uint64_t low = get(uc, RAX), high = get(uc, RDX);
  memset(operand, 0, PF_OPERAND_MAX);
  memcpy(operand, &low, handle->expected);
  if (handle->expected_pair) {
    memcpy(operand + handle->expected, &high, handle->expected);
  }
}

/* The fault that `uc` is about. False: not one of an access to data, or one of our own. */
static bool get_fault(const pf_step_t *step, const ucontext_t *uc, uintptr_t addr, const pf_step_areas_t *areas, fault_t *fault) {
  const greg_t *gregs = uc->uc_mcontext.gregs;
  uint64_t rip = (uint64_t)gregs[REG_RIP];
  uint64_t error = gregs[REG_TRAPNO] == PAGE_FAULT ? (uint64_t)gregs[REG_ERR] : 0;
  *fault = (fault_t){.addr = addr, .write = (error & FAULT_WAS_WRITE) != 0};
  if (step->count == PF_STEP_OPERANDS || (error & FAULT_WAS_FETCH) != 0 || covers(rip, PF_INSN_MAX, addr)) {
    return false;
  }
  if (step->count != 0 && !in_copy(step, uc)) { /* the second operand of the same instruction */
    if (step->copy != 0 || step->rip != rip || (gregs[REG_EFL] & TRAP_FLAG) == 0) {
      return false;
    }
  }
  return !covers((uintptr_t)areas->zeroes, areas->zeroes_len, addr) && !covers((uintptr_t)areas->sink, areas->sink_len, addr);
}

static void begin(pf_step_t *step, ucontext_t *uc) {
  step->rip = (uint64_t)uc->uc_mcontext.gregs[REG_RIP];
  step->trap_was_set = (uc->uc_mcontext.gregs[REG_EFL] & TRAP_FLAG) != 0;
  step->copy = 0;
  step->blocked_then = get_blocked(uc);
  set_blocked(uc, ~SYNCHRONOUS);
}

static bool is_redirected(const pf_step_t *step, int reg) {
  for (unsigned i = 0; i < step->count; i++) {
    if (step->entry[i].reg == reg) {
      return true;
    }
  }
  return false;
}

int pf_step_redirect(pf_step_t *step, ucontext_t *uc, uintptr_t addr, const pf_step_areas_t *areas) {
  fault_t fault;
  handle_t handle;
  if (!get_fault(step, uc, addr, areas, &fault) || !pick_register(uc, &fault, &handle) || is_redirected(step, handle.reg)) {
    return -ENOTSUP;
  }
  bool writes = handle.access != PF_ACCESS_LOAD;
  const void *area = writes ? areas->sink : areas->zeroes;
  size_t len = writes ? areas->sink_len : areas->zeroes_len;
  uint64_t target;
  if (area == NULL || !place(addr, area, len, &target)) {
    return -ENOTSUP;
  }

  /* A multiple of 4096, so that a scaled index can take its part of it. */
  int64_t delta = (int64_t)(target - addr) / ((int64_t)1 << handle.scale);
  uint64_t redirected = get(uc, handle.reg) + (uint64_t)delta;
  /* A destination that held 0 could not be told from one that was loaded. */
  if (handle.written != 0 && redirected == 0) {
    return -ENOTSUP;
  }

  bool first = step->count == 0;
  if (first) {
    begin(step, uc);
  }
  step->entry[step->count++] = (pf_step_entry_t){
    .reg = (int8_t)handle.reg,
    .string = handle.string,
    .written = handle.written,
    .delta = delta,
    .redirected = redirected,
  };
  set(uc, handle.reg, redirected);
  if (handle.access == PF_ACCESS_MODIFY) {
    fill_operand(&handle, uc, (uint8_t *)areas->sink + (target - (addr - handle.operand) - (uintptr_t)areas->sink));
  }
  if (first && handle.copies != 0 && !step->trap_was_set && (uc->uc_mcontext.gregs[REG_EFL] & DIRECTION_FLAG) == 0) {
    start_copy(step, uc, &handle);
  }
  if (step->copy != 0) {
    limit_copy(step, uc, &handle, addr, (uintptr_t)area + len);
  } else {
    uc->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
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
  if (!covers(step->rip, PF_INSN_MAX + 1, rip)) { /* with rep, RIP stays until the last round */
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
int pf_step_redirect(pf_step_t *step, ucontext_t *uc, uintptr_t addr, const pf_step_areas_t *areas) {
  (void)step, (void)uc, (void)addr, (void)areas;
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
