export * from "../gen/ultracloud/vmagent/v1/vmagent_pb.ts";
