// The result as a table for people. The JSON document has the same numbers unrounded.

const UNITS = { x: '×', '%': ' %', ns: ' ns', us: ' µs', ms: ' ms', bytes: ' B', KiB: ' KiB' };

/** @param {number} value */
function digits(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size === 0 ? 0 : 2);
}

/**
 * @param {number | undefined} value
 * @param {import('./context.js').Result['unit']} unit
 */
function quantity(value, unit) {
  return value === undefined ? '' : `${digits(value)}${UNITS[unit]}`;
}

/**
 * @param {import('./context.js').Target | null} target
 * @param {import('./context.js').Result['unit']} unit
 */
function bound(target, unit) {
  if (target?.atMost !== undefined) return `≤ ${quantity(target.atMost, unit)}`;
  if (target?.atLeast !== undefined) return `≥ ${quantity(target.atLeast, unit)}`;
  return 'reported';
}

/**
 * Whether the target is met; undefined where there is none.
 * @param {import('./context.js').Target | null} target
 * @param {number} value
 */
export function met(target, value) {
  if (target?.atMost !== undefined) return value <= target.atMost;
  if (target?.atLeast !== undefined) return value >= target.atLeast;
  return undefined;
}

/**
 * Whether all targets of a figure are met: its own, and those of what it has measured beside.
 * @param {import('./context.js').Target | null} target
 * @param {import('./context.js').Result} result
 */
export function metAll(target, { value, also = [] }) {
  const each = [met(target, value), ...also.map((other) => met(other.target, other.value))];
  if (each.includes(false)) return false;
  return each.includes(true) ? true : undefined;
}

/** @param {NonNullable<import('./context.js').Result['also']>[number]} other */
function beside({ name, value, unit, target }) {
  const isMet = met(target, value);
  const verdict = isMet === undefined ? '' : ` (${bound(target, unit)}, ${isMet ? 'met' : 'MISSED'})`;
  return `${name} ${quantity(value, unit)}${verdict}`;
}

/**
 * @typedef {{ name: string, title: string, target: import('./context.js').Target | null, result?: import('./context.js').Result,
 *   met?: boolean | undefined, error?: string, seconds: number }} Outcome
 */

/** @param {readonly Outcome[]} outcomes */
export function table(outcomes) {
  const head = ['figure', 'result', 'quartiles', 'target', '', 'pagefault', 'floor', 'unit', 'otherwise'];
  const rows = outcomes.map(({ name, target, result, met: isMet, error }) => {
    if (!result) return [name, 'failed', '', '', '', '', '', '', (error ?? '').split('\n')[0] ?? ''];
    const { value, unit, spread, others = {}, also = [], per = 'ns/page' } = result;
    return [
      name,
      quantity(value, unit),
      spread ? `${digits(spread[0])}–${digits(spread[1])}` : '',
      bound(target, unit),
      isMet === undefined ? '' : isMet ? 'met' : 'MISSED',
      result.pagefault === undefined ? '' : digits(result.pagefault),
      result.floor === undefined ? '' : digits(result.floor),
      result.pagefault === undefined && result.floor === undefined && Object.keys(others).length === 0 ? '' : per,
      [...Object.entries(others).map(([key, other]) => `${key} ${digits(other)}`), ...also.map(beside)].join(', '),
    ];
  });
  const widths = head.map((_, column) => Math.max(...[head, ...rows].map((row) => row[column]?.length ?? 0)));
  const right = new Set([1, 2, 3, 5, 6]);
  /** @param {string[]} row */
  const line = (row) =>
    row
      .map((cell, column) =>
        right.has(column) ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0),
      )
      .join('  ')
      .trimEnd();
  const notes = outcomes.flatMap(({ name, result }) => (result?.note ? [`${name}: ${result.note}`] : []));
  return [line(head), ...rows.map(line), ...(notes.length > 0 ? ['', ...notes] : [])].join('\n');
}
