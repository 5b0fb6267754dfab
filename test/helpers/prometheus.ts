/** Reads Prometheus' text format, version 0.0.4, and takes nothing that is not quite right. */
import assert from 'node:assert/strict';

export interface Sample {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

const SAMPLE = /^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"/g;

/** All samples, in order. Each metric must have one HELP, one TYPE and its samples together, no two of them with the same labels. */
export function parseMetrics(text: string): Sample[] {
  assert.ok(text.endsWith('\n'));
  const samples: Sample[] = [];
  const known = new Map<string, string>();
  const series = new Set<string>();
  let helped = '';
  let current = '';
  for (const line of text.slice(0, -1).split('\n')) {
    const help = /^# HELP (\w+) \S.*$/.exec(line);
    const type = /^# TYPE (\w+) (counter|gauge|histogram)$/.exec(line);
    if (help !== null) helped = help[1] ?? '';
    else if (type !== null) {
      current = type[1] ?? '';
      assert.equal(current, helped, line);
      assert.ok(!known.has(current), `${current} twice`);
      known.set(current, type[2] ?? '');
    } else {
      const sample = parseSample(line);
      const kind = known.get(current);
      const suffix = kind === 'histogram' ? /^(_bucket|_sum|_count)$/ : /^$/;
      assert.match(sample.name.slice(current.length), suffix, `${line} is no sample of ${current}`);
      assert.ok(kind !== 'counter' || current.endsWith('_total'), current);
      const id = line.slice(0, line.lastIndexOf(' '));
      assert.ok(!series.has(id), `${id} twice`);
      series.add(id);
      samples.push(sample);
    }
  }
  return samples;
}

function parseSample(line: string): Sample {
  const [, name = '', inside = '', number = ''] = SAMPLE.exec(line) ?? assert.fail(`no sample: ${line}`);
  const value = number === '+Inf' ? Number.POSITIVE_INFINITY : Number(number);
  assert.ok(!Number.isNaN(value), line);
  const labels: Record<string, string> = {};
  for (const [, key = '', escaped = ''] of inside.matchAll(LABEL)) {
    labels[key] = escaped.replaceAll(/\\(.)/g, (_, sign: string) => (sign === 'n' ? '\n' : sign));
  }
  return { name, labels, value };
}

/** The one sample with this name and these labels. */
export function sampleOf(samples: readonly Sample[], name: string, labels: Record<string, string> = {}): number {
  const found = samples.filter(
    (sample) => sample.name === name && Object.entries(labels).every(([key, value]) => sample.labels[key] === value),
  );
  assert.equal(found.length, 1, `${name} ${JSON.stringify(labels)}: ${found.length} samples`);
  return found[0]?.value ?? Number.NaN;
}
