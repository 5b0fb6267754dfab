// A reporter for the runner of Node that keeps quiet about what passed: one line of JSON for each test that failed,
// with its file. scripts/test.mjs prints them after the totals, where they are found in a log of thousands of tests.
import { inspect } from 'node:util';

export default async function* failures(events) {
  for await (const { type, data } of events) {
    // A test that fails because a test in it failed has nothing of its own to say.
    if (type !== 'test:fail' || data.details.error?.failureType === 'subtestsFailed' || data.todo !== undefined)
      continue;
    const error = data.details.error?.cause ?? data.details.error;
    yield `${JSON.stringify({ name: data.name, file: data.file, error: typeof error === 'string' ? error : inspect(error) })}\n`;
  }
}
