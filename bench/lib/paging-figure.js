// A figure over the runs of `pagefault paging`: the ratio of one of their numbers, by round.
import { median, summary } from './measure.js';
import { pagingRuns } from './paging.js';

/**
 * @param {import('./context.js').Context} context
 * @param {{ field: keyof import('./paging.js').Run, per: string, beside?: Record<string, keyof import('./paging.js').Run> }} options
 *   `beside`: what else is reported of both sides
 * @returns {import('./context.js').Result}
 */
export function pagingFigure(context, { field, per, beside = {} }) {
  const { pages, pagefault, floor } = pagingRuns(context);
  /**
   * @param {readonly import('./paging.js').Run[]} runs
   * @param {keyof import('./paging.js').Run} of
   */
  const middle = (runs, of) => median(runs.map((one) => one[of]));
  /** @param {keyof import('./paging.js').Run} of */
  const ratios = (of) => summary(pagefault.map((one, round) => one[of] / (floor[round]?.[of] ?? Number.NaN)));
  const others = Object.entries(beside).flatMap(([name, of]) => [
    [name, middle(pagefault, of)],
    [`${name} of the floor`, middle(floor, of)],
    [`${name}, ratio`, ratios(of).value],
  ]);
  return {
    ...ratios(field),
    unit: 'x',
    pagefault: middle(pagefault, field),
    floor: middle(floor, field),
    per,
    others: Object.fromEntries(others),
    note: `${pagefault.length} runs of ${pages} pages on each side`,
  };
}
