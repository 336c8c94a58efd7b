/** The component, profiled on request in its state directory. */
import { profileOnRequest } from "@ultracloud/testing";

profileOnRequest((await Deno.readTextFile(Deno.args[1]!)).match(/stateDir = "(.+)"/)![1]!);
await import("./main.ts");
