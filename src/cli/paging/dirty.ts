/** Which pages were written to, at the end. Pure functions. */
import { GUEST_PAGE, type Pages } from '../../guests/pages.js';

/** Runs of neighbouring pages, first and last of each. Pages that were evicted after they were written count. */
export function dirtyRanges(pages: Pages): { pages: number; ranges: [number, number][] } {
  const ranges: [number, number][] = [];
  let count = 0;
  for (let page = 0; page < pages.count; page++) {
    if (pages.state(page) !== GUEST_PAGE.dirty && !pages.saved.has(page)) continue;
    count += 1;
    const last = ranges.at(-1);
    if (last !== undefined && last[1] === page - 1) last[1] = page;
    else ranges.push([page, page]);
  }
  return { pages: count, ranges };
}
