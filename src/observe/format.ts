/**
 * Numbers as people read them: bytes in KiB, MiB, GiB; durations from nanoseconds up; counts with separators. Pure
 * functions, independent of the locale of the machine, so that output can be compared in tests and scripts.
 */

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'] as const;
const TIME_UNITS = [
  { unit: 's', ns: 1e9 },
  { unit: 'ms', ns: 1e6 },
  { unit: 'µs', ns: 1e3 },
] as const;

/** Three significant digits, without trailing zeroes after the point. */
function short(value: number): string {
  if (value >= 100) return String(Math.round(value));
  const fixed = value.toFixed(value >= 10 ? 1 : 2);
  return fixed.replace(/\.?0+$/, '');
}

/** `67108864` → `64 MiB`. Negative numbers keep their sign. */
export function formatBytes(bytes: number): string {
  if (bytes < 0) return `-${formatBytes(-bytes)}`;
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < BYTE_UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${short(value)} ${BYTE_UNITS[unit]}`;
}

/** `2450` → `2.45 µs`. */
export function formatDuration(ns: number): string {
  for (const { unit, ns: size } of TIME_UNITS) {
    if (ns >= size) return `${short(ns / size)} ${unit}`;
  }
  return `${short(ns)} ns`;
}

/** `1234567` → `1,234,567`. */
export function formatCount(count: number): string {
  return String(Math.round(count)).replace(/\B(?=(\d{3})+$)/g, ',');
}

/** `3`, `'page'` → `3 pages`; `1`, `'page'` → `1 page`; `2`, `'box'`, `'boxes'` → `2 boxes`. */
export function formatQuantity(count: number, noun: string, plural = `${noun}s`): string {
  return `${formatCount(count)} ${count === 1 ? noun : plural}`;
}

/** In four places at most, up to a million millions: `999`, `1.2k`, `12k`, `123k`, `1.2M`. */
export function formatShort(count: number): string {
  let value = Math.max(0, count);
  for (const unit of ['', 'k', 'M', 'G', 'T']) {
    if (value < 999.5 || unit === 'T') {
      const rounded = unit !== '' && value < 9.95 ? value.toFixed(1).replace(/\.0$/, '') : String(Math.round(value));
      return `${rounded}${unit}`;
    }
    value /= 1000;
  }
  return '';
}
