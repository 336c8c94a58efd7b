import { simMain } from "@ultracloud/testing";
import { chainfireKit } from "./test_machine.ts";

if (import.meta.main) {
  Deno.exit(await simMain(Deno.args, (line) => console.log(line), { name: "chainfire", kit: chainfireKit }));
}
