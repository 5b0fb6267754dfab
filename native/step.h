/* step.h: lets one access to a page that cannot be had go on, without mapping anything at that page.
 *
 * A missing page must never be filled with zeroes to get a thread going, because another thread would read them as data.
 * Inside `attempt` the access has to go on all the same. So the register that holds its address is shifted until a load
 * reads from a private area of zeroes, and what writes does so into an area where nobody looks, the sink. The processor's
 * trap flag is set, and the one instruction is run:
 *
 *   touch -> SIGSEGV or SIGBUS -> pf_step_redirect -> the access, once, elsewhere -> SIGTRAP -> pf_step_finish
 *
 * What an instruction that reads and writes (add, xchg, lock xadd) finds in the sink is zeroes; cmpxchg finds what it
 * expects, so that a loop around it ends, whatever the page held.
 *
 * `rep movs` and `rep stos` would trap for each element, and the C library copies and fills with them. They are taken to
 * a `rep movs` or `rep stos` of ours instead, for as many rounds as fit into the system page, with a breakpoint behind it.
 *
 * Runs in the signal handler of the thread that faulted and takes no lock. A pf_step_t belongs to one thread; all
 * zeroes means that nothing is redirected. x86-64 only: elsewhere every redirect is refused.
 */
#ifndef PF_STEP_H
#define PF_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

/* No instruction accesses more than two places that a register names (cmps and movs do). */
#define PF_STEP_OPERANDS 2

/* An area of this size is always large enough, however it is aligned. */
#define PF_STEP_AREA_MIN 8192

typedef struct {
  const void *zeroes; /* should be mapped read-only; any number of threads may share it */
  size_t zeroes_len;
  void *sink; /* readable and writable, this thread's own; NULL: what writes is refused */
  size_t sink_len;
} pf_step_areas_t;

typedef struct {
  int8_t reg;          /* number of the register as instructions encode it: 0 is rax, 15 is r15 */
  bool string;         /* the instruction itself moves the register on (movs, stos, lods, cmps, scas) */
  uint64_t written;    /* bits of the register that the instruction replaces; 0 when it is not a known destination */
  int64_t delta;       /* what was added to the register */
  uint64_t redirected; /* what the register held after that */
} pf_step_entry_t;

typedef struct {
  uint8_t count; /* entries in use; 0: nothing is redirected */
  pf_step_entry_t entry[PF_STEP_OPERANDS];
  bool trap_was_set;     /* somebody else was stepping this thread already; the SIGTRAP is theirs as well */
  uint64_t rip;          /* the instruction that is redirected */
  uint64_t blocked_then; /* the thread's blocked signals, to be put back */
  uint64_t copy;         /* the rep movs or rep stos of ours that runs instead; 0: the instruction itself runs */
  uint64_t copy_end;     /* RIP behind its breakpoint */
  uint64_t withheld;     /* rounds that are left for later, to be added to rcx */
  uint8_t length;        /* bytes of the instruction; known only with copy */
} pf_step_t;

/* Makes the access to `addr` (the exact si_addr) of the instruction at `uc` go to the areas when the handler returns: a load
 * to the zeroes, a store or what reads and writes to the sink. That is so for all of an operand that lies across two pages,
 * not only for the part on the missing page: it reads as zeroes, or is thrown away, altogether. Until pf_step_finish,
 * signals that can wait are blocked in `uc` and SIGTRAP is not. The contents of the sink are overwritten.
 *
 * May be called again for a second operand of the same instruction while the first is redirected.
 *
 * Returns 0, or -ENOTSUP, and then `uc`, `step` and the sink are as they were:
 *   - the instruction writes and there is no sink, or the fault was an instruction fetch;
 *   - the fault was a write and not by the operand: push, call and pop over a stack that cannot be had, pop to memory;
 *   - no register can be shifted: RIP-relative and absolute addresses, rsp as base, one register as base and index,
 *     gathers and scatters (VSIB), tiles, addresses of 32 bits, bit tests with a bit number in a register, maskmovdqu;
 *   - zeroes would do harm: call, jmp, div, loads of segment registers, of control words, of rsp, of whole states;
 *   - control words and whole states are stored: fnstcw, stmxcsr, fnstenv, xsave; segment registers; compressing stores;
 *     movdiri, movdir64b, cmpccxadd;
 *   - the result would show the shifted address: `add (%rax), %rax`, `add %rax, (%rax)`, `xadd %rax, (%rax)`;
 *   - the address that the decoder worked out is not `addr`, the instruction is unknown, or the area is too small;
 *   - a redirect of another instruction of this thread has not ended. */
int pf_step_redirect(pf_step_t *step, ucontext_t *uc, uintptr_t addr, const pf_step_areas_t *areas);

/* For the SIGTRAP handler (si_code TRAP_TRACE or, behind a copy, SI_KERNEL). Returns true when this trap ends a redirect:
 * registers, trap flag and blocked signals are then as the program wants them and `step` is empty. Otherwise returns
 * false, nothing changed. */
bool pf_step_finish(pf_step_t *step, ucontext_t *uc);

/* Takes back a redirect that has not run, so that a fault which arrives in the middle of it can be passed on with the
 * original context: that of a copy with the rounds done so far. Returns true when there was one; `step` is then empty.
 * Otherwise returns false, nothing changed. */
bool pf_step_cancel(pf_step_t *step, ucontext_t *uc);

#endif
