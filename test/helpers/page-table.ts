/**
 * What each operation does to a page in each state: the table of docs/segment.md, of which each cell is a test of
 * test/conformance/write-states.test.ts.
 */

export const STATES = [
  'absent',
  'loading',
  'present',
  'modified',
  'pinned',
  'pinned, modified',
  'staged',
  'staged, modified',
  'failed',
] as const;
export type PageState = (typeof STATES)[number];

export const OPERATIONS = [
  'read through a view',
  'write through a view',
  '`read`',
  '`write`',
  '`load`',
  '`pin`',
  '`release`',
  '`invalidate`',
  '`discard`',
  '`flush`',
  '`resetWriteDetection`',
  'eviction for the budget',
  '`close`',
] as const;
export type Operation = (typeof OPERATIONS)[number];

const AGAIN = 'is read again before anyone sees it';
const ATTEMPT = 'ends the process; in `attempt` throws';
const SEEN = 'its next write is seen again';

/** One row an operation, one cell a state. '–': cannot be. */
export const CELLS: Readonly<Record<Operation, readonly string[]>> = {
  'read through a view': ['loads', 'waits', 'reads', 'reads', 'reads', 'reads', 'taken back', 'taken back', ATTEMPT],
  'write through a view': [
    'loads, modified',
    'waits, modified',
    'modified',
    'stays modified',
    'modified',
    'stays modified',
    'taken back, modified',
    'taken back',
    ATTEMPT,
  ],
  '`read`': ['loads', 'waits', 'copies', 'copies', 'copies', 'copies', 'taken back', 'taken back', 'throws'],
  '`write`': [
    'loads, modified',
    'waits, modified',
    'modified',
    'stays modified',
    'modified',
    'stays modified',
    'taken back, modified',
    'taken back',
    'throws',
  ],
  '`load`': [
    'loads',
    'waits',
    'nothing',
    'nothing',
    'nothing',
    'nothing',
    'taken back',
    'taken back',
    '**loads again**; throws if it fails again',
  ],
  '`pin`': [
    'loads, pins',
    'waits, pins',
    'pins',
    'pins',
    'one more pin',
    'one more pin',
    'taken back, pins',
    'taken back, pins',
    'loads again, pins; throws if it fails again',
  ],
  '`release`': ['nothing', AGAIN, 'absent', 'nothing', 'nothing', 'nothing', 'absent', 'nothing', 'nothing'],
  '`invalidate`': [
    'nothing',
    AGAIN,
    'absent',
    'nothing',
    'absent once it is unpinned',
    'nothing',
    'absent',
    'nothing',
    'absent: the next touch tries again',
  ],
  '`discard`': [
    'nothing',
    'nothing',
    'nothing',
    'absent',
    'nothing',
    'absent once it is unpinned',
    'nothing',
    'absent',
    'nothing',
  ],
  '`flush`': [
    'nothing',
    'nothing',
    'nothing',
    'written',
    'nothing',
    'written',
    'nothing',
    'taken back, written',
    'nothing',
  ],
  '`resetWriteDetection`': ['nothing', 'nothing', 'nothing', SEEN, 'nothing', SEEN, 'nothing', SEEN, 'nothing'],
  'eviction for the budget': [
    '–',
    '–',
    'staged, or absent',
    'staged, or written and absent',
    'never',
    'never',
    'absent',
    'written, absent',
    '–',
  ],
  '`close`': [
    '–',
    'the wait ends with `ERR_PAGEFAULT_CLOSED`',
    'dropped',
    'written, dropped',
    'dropped',
    'written, dropped',
    'dropped',
    'written, dropped',
    'dropped',
  ],
};

/** The table as it must stand in the documentation. */
export function asMarkdown(): string {
  const rows = OPERATIONS.map((operation) => `| ${operation} | ${CELLS[operation].join(' | ')} |`);
  return [
    '| | absent | loading | present | modified | pinned | pinned, modified | staged | staged, modified | failed |',
    `|${'---|'.repeat(STATES.length + 1)}`,
    ...rows,
  ].join('\n');
}
