package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// runGet is the image `curl`: it gets each URL in turn and prints a status line and the body. It fails when a
// request had no answer; an answer of any status is one.
func runGet(args []string) error {
	flags := flag.NewFlagSet("get", flag.ExitOnError)
	times := flags.Int("times", 1, "how often to get each URL")
	interval := flags.Duration("interval", 0, "pause between requests")
	timeout := flags.Duration("timeout", 10*time.Second, "of one request")
	connectTo := flags.String("connect-to", "", "HOST:PORT to connect to whatever the URL says")
	insecure := flags.Bool("insecure", false, "accept any certificate")
	reuse := flags.Bool("reuse", false, "keep connections between requests")
	var headers stringList
	flags.Var(&headers, "header", "`NAME: VALUE` to send, may be repeated")
	urls := parseMixed(flags, args)
	if len(urls) == 0 {
		return fmt.Errorf("usage: get URL... [--times N] [--interval 1s] [--timeout 10s] [--header 'NAME: VALUE'] [--connect-to HOST:PORT] [--insecure] [--reuse]")
	}

	transport := &http.Transport{
		DisableKeepAlives: !*reuse,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: *insecure},
		ForceAttemptHTTP2: true,
	}
	if *connectTo != "" {
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, *connectTo)
		}
	}
	client := &http.Client{
		Transport:     transport,
		Timeout:       *timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	failures := 0
	for i := range *times {
		for _, url := range urls {
			if err := getOnce(client, url, headers); err != nil {
				fmt.Printf("error %v\n", err)
				failures++
			}
			if i+1 < *times {
				time.Sleep(*interval)
			}
		}
	}
	if failures > 0 {
		return fmt.Errorf("%d of %d requests had no answer", failures, *times*len(urls))
	}
	return nil
}

func getOnce(client *http.Client, url string, headers []string) error {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	for _, header := range headers {
		name, value, found := strings.Cut(header, ":")
		if !found {
			return fmt.Errorf("header %q: want NAME: VALUE", header)
		}
		if strings.EqualFold(name, "host") {
			request.Host = strings.TrimSpace(value)
		} else {
			request.Header.Add(name, strings.TrimSpace(value))
		}
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	fmt.Printf("%d %s\n%s\n", response.StatusCode, url, strings.TrimRight(string(body), "\n"))
	return nil
}

// parseMixed allows flags after the arguments too.
func parseMixed(flags *flag.FlagSet, args []string) (rest []string) {
	for len(args) > 0 {
		_ = flags.Parse(args)
		args = flags.Args()
		if len(args) > 0 {
			rest = append(rest, args[0])
			args = args[1:]
		}
	}
	return rest
}
