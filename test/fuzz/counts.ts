/** What the counters of a segment must be, by the states of its pages. */
import type { Segment } from 'pagefault';
import { PAGE_PINNED, PAGE_STATE } from '#dist/native/binding.js';

/** The bits of a page's byte that are its state. */
export const STATE = 0x07;

/** How many of the pages are in that state. */
export function pagesIn(bytes: Uint8Array, state: number): number {
  return bytes.reduce((sum, byte) => sum + Number((byte & STATE) === state), 0);
}

/** What is wrong, if anything is; with nothing under way. `pinCount`: how often each page is pinned. */
export function wrongCounts(
  stats: ReturnType<Segment['stats']>,
  bytes: Uint8Array,
  pageSize: number,
  pinCount: Uint16Array,
): string | undefined {
  const expected = {
    residentBytes: pagesIn(bytes, PAGE_STATE.present) * pageSize,
    stagedBytes: pagesIn(bytes, PAGE_STATE.staged) * pageSize,
    failedPages: pagesIn(bytes, PAGE_STATE.failed),
    pinnedPages: pinCount.reduce((sum, pins) => sum + Number(pins > 0), 0),
  };
  for (const [name, value] of Object.entries(expected)) {
    const given = stats[name as keyof typeof expected];
    if (given !== value) return `stats().${name} is ${given}, and the pages say ${value}`;
  }
  for (const [page, byte] of bytes.entries()) {
    if (((byte & PAGE_PINNED) !== 0) !== (pinCount[page] ?? 0) > 0) {
      return `page ${page} ${byte & PAGE_PINNED ? 'is' : 'is not'} pinned, with ${pinCount[page]} pins`;
    }
  }
  return undefined;
}

/** What `withinBudget` looks at. */
interface Charged {
  readonly segment: Segment;
  /** Of its budget; undefined: it has none. */
  readonly limit: number | undefined;
  readonly plan: { readonly pageSize: number; readonly resident: number | 'shared' | undefined };
  /** Those that share the case's budget. */
  readonly peers: readonly Charged[];
  readonly mostPinned: number;
}

/** What is wrong with what is charged to a segment's budget, at any time, while so many further threads touch pages. */
export function wrongCharge(charged: Charged, threads: number): string | undefined {
  const { budgetBytes, budgetLimit } = charged.segment.stats();
  const { limit } = charged;
  if (limit === undefined) return budgetBytes === 0 ? undefined : `${budgetBytes} bytes charged without a budget`;
  if (budgetLimit !== limit) return `stats().budgetLimit is ${budgetLimit}, not ${limit}`;
  const members = charged.plan.resident === 'shared' ? charged.peers : [charged];
  const pinned = members.reduce((sum, { mostPinned, plan }) => sum + mostPinned * plan.pageSize, 0);
  // One instruction may need four pages, and in each further thread two.
  const needed = (4 + 2 * threads) * Math.max(...members.map(({ plan }) => plan.pageSize));
  const most = Math.max(limit, pinned + needed);
  if (budgetBytes > most) return `${budgetBytes} bytes are charged to a budget of ${limit}, which may hold ${most}`;
  return undefined;
}
