// Runs one figure in a process of its own, so that neither the heap nor the optimiser's memory of one figure touches the next, and
// an abort ends one figure only. Started by main.js: the settings come in as JSON in argv[2], the result goes out as a message.
import { budget, map } from 'pagefault';
import * as kernel from 'pagefault/kernel';
import * as stores from 'pagefault/stores';
import { loadFigure } from './lib/figures.js';

/** @type {{ name: string, path: string, pages: number, rounds: number, quick: boolean, workingSet: number }} */
const { name, ...settings } = JSON.parse(process.argv[2] ?? '{}');
const figure = await loadFigure(name);
const result = await figure.run({ map, budget, stores, kernel, ...settings });
process.send?.(result, () => process.disconnect());
