// Command grpc-echo is a real gRPC server and a real gRPC client, to prove a proxy between the two.
//
//	grpc-echo server --listen 127.0.0.1:0 [--cert FILE --key FILE]
//	grpc-echo client --target HOST:PORT [--tls --ca FILE --server-name NAME] [--authority NAME]
//
// The server prints `listening on ADDR` once it listens. The client prints `ok NAME` or
// `FAIL NAME: why` for each case and exits with 1 if one failed; bad usage exits with 2.
// The messages are those of gRPC's own interop tests, so that nothing here is generated.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "grpc-echo:", err)
		os.Exit(2)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("say `server` or `client`")
	}
	flags := flag.NewFlagSet(args[0], flag.ExitOnError)
	switch args[0] {
	case "server":
		listen := flags.String("listen", "127.0.0.1:0", "ADDR:PORT to listen on; port 0 takes any free one")
		cert := flags.String("cert", "", "PEM certificate: serve TLS (with --key)")
		key := flags.String("key", "", "PEM private key of --cert")
		if err := parse(flags, args[1:]); err != nil {
			return err
		}
		return serve(*listen, *cert, *key)
	case "client":
		var options clientOptions
		flags.StringVar(&options.target, "target", "", "HOST:PORT to connect to")
		flags.BoolVar(&options.tls, "tls", false, "speak TLS instead of plaintext HTTP/2")
		flags.StringVar(&options.ca, "ca", "", "PEM file of the certificates to trust (with --tls)")
		flags.StringVar(&options.serverName, "server-name", "", "SNI and the name to verify (with --tls)")
		flags.StringVar(&options.authority, "authority", "", "`:authority` of every call; default: the server name, else the target")
		if err := parse(flags, args[1:]); err != nil {
			return err
		}
		if options.target == "" {
			return fmt.Errorf("client needs --target HOST:PORT")
		}
		failed, err := runCases(options)
		if err != nil {
			return err
		}
		if failed {
			os.Exit(1)
		}
		return nil
	default:
		return fmt.Errorf("no command %q; say `server` or `client`", args[0])
	}
}

// parse refuses what is left over after the flags, which would otherwise be ignored in silence.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return nil
}
