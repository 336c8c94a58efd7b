/// <reference lib="deno.unstable" />
import { isCoreFile, isPureFile } from "./places.ts";

type Rule = Deno.lint.Rule;

/** `Date.now` for the expression `Date.now` and for `globalThis.Date.now`; undefined for anything computed. */
function dotted(node: Deno.lint.Node): string | undefined {
  if (node.type === "Identifier") return node.name;
  if (node.type !== "MemberExpression") return undefined;
  const property = node.computed
    ? (node.property.type === "Literal" ? String(node.property.value) : undefined)
    : (node.property.type === "Identifier" ? node.property.name : undefined);
  if (property === undefined) return undefined;
  const object = dotted(node.object);
  if (object === undefined) return undefined;
  return object === "globalThis" ? property : `${object}.${property}`;
}

function pureRule(visit: (context: Deno.lint.RuleContext) => Deno.lint.LintVisitor): Rule {
  return { create: (context) => isPureFile(context.filename) ? visit(context) : {} };
}

/** Reports each use of a name in `names`; `globalThis.` in front changes nothing. */
function forbidNames(names: ReadonlySet<string>, message: (name: string) => string, hint: string): Rule {
  return pureRule((context) => ({
    MemberExpression(node) {
      const name = dotted(node);
      if (name !== undefined && names.has(name)) context.report({ node, message: message(name), hint });
    },
    CallExpression(node) {
      if (node.callee.type !== "Identifier" || !names.has(node.callee.name)) return;
      context.report({ node, message: message(node.callee.name), hint });
    },
  }));
}

const timeNames = new Set(["Date.now", "performance.now"]);
const timerNames = new Set(["setTimeout", "setInterval", "setImmediate", "clearTimeout", "clearInterval"]);
const randomNames = new Set(["Math.random", "crypto.randomUUID", "crypto.getRandomValues"]);

/** Rules of the rooms that tests replay: time, chance, network and disk come in through `(options, deps)`. */
export const pureRules: Record<string, Rule> = {
  "pure-no-deno": pureRule((context) => ({
    MemberExpression(node) {
      const object = dotted(node.object);
      if (object !== "Deno") return;
      context.report({
        node,
        message: "Cannot use Deno.* in a pure room",
        hint: "Take the Disk, Net or Clock you need through the constructor's dependencies",
      });
    },
  })),
  "pure-no-fetch": forbidNames(
    new Set(["fetch", "WebSocket"]),
    (name) => `Cannot call ${name} in a pure room`,
    "Return an action and let service.ts or peers.ts do the call",
  ),
  "pure-no-time": pureRule((context) => {
    const hint = "Take `clock: Clock` through the dependencies and call clock.nowMs() or clock.monotonicMs()";
    return {
      MemberExpression(node) {
        const name = dotted(node);
        if (name !== undefined && timeNames.has(name)) {
          context.report({ node, message: `Cannot read ${name} in a pure room`, hint });
        }
      },
      NewExpression(node) {
        if (node.arguments.length === 0 && dotted(node.callee) === "Date") {
          context.report({ node, message: "Cannot read the time with new Date() in a pure room", hint });
        }
      },
      CallExpression(node) {
        if (dotted(node.callee) === "Date") {
          context.report({ node, message: "Cannot read the time with Date() in a pure room", hint });
        }
      },
    };
  }),
  "pure-no-timers": forbidNames(
    timerNames,
    (name) => `Cannot use ${name} in a pure room`,
    "Count ticks given by the driver, or wait with clock.sleep(ms, signal) outside domain/",
  ),
  "pure-no-random": forbidNames(
    randomNames,
    (name) => `Cannot use ${name} in a pure room`,
    "Take `rng: Rng` through the dependencies, so that a seed replays the run",
  ),
  "core-no-async": {
    create(context) {
      if (!isCoreFile(context.filename)) return {};
      const hint = "Return the action in Ready and take its outcome as the next message; the driver does the waiting";
      const report = (node: Deno.lint.Node) =>
        context.report({ node, message: "Cannot wait inside the Raft core", hint });
      const onFunction = (
        node: Deno.lint.FunctionDeclaration | Deno.lint.FunctionExpression | Deno.lint.ArrowFunctionExpression,
      ) => {
        if (node.async) report(node);
      };
      return {
        FunctionDeclaration: onFunction,
        FunctionExpression: onFunction,
        ArrowFunctionExpression: onFunction,
        AwaitExpression: report,
        NewExpression(node) {
          if (dotted(node.callee) === "Promise") report(node);
        },
        MemberExpression(node) {
          if (dotted(node.object) === "Promise") report(node);
        },
        TSTypeReference(node) {
          if (node.typeName.type === "Identifier" && /^Promise(Like)?$/.test(node.typeName.name)) report(node);
        },
        CallExpression(node) {
          if (dotted(node.callee) === "queueMicrotask") report(node);
        },
      };
    },
  },
};
