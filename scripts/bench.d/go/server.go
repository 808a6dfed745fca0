// What one would write by hand instead of the relay, with Go, net/http and franz-go.
package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	bodyBytesMax  = 1 << 20
	publishWithin = 8 * time.Second
	closeWithin   = 10 * time.Second
)

type server struct {
	kafka  *kgo.Client
	secret []byte
}

type published struct {
	Status    string `json:"status"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

func (s *server) webhook(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	var members map[string]jsontext.Value
	if err := json.Unmarshal(body, &members); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !s.isSigned(members) {
		http.Error(w, "wrong checksum", http.StatusUnauthorized)
		return
	}
	record := &kgo.Record{Key: orderReference(members["data"]), Value: body}
	if err := s.publish(r.Context(), record); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.MarshalWrite(w, published{"published", record.Partition, record.Offset})
}

// publish does not wait for a record that was sent and not answered, as ProduceSync would: an
// idempotent producer tries that again for as long as it takes.
func (s *server) publish(ctx context.Context, record *kgo.Record) error {
	ctx, cancel := context.WithTimeout(ctx, publishWithin)
	defer cancel()
	acknowledged := make(chan error, 1)
	s.kafka.Produce(ctx, record, func(_ *kgo.Record, err error) { acknowledged <- err })
	select {
	case err := <-acknowledged:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// isSigned takes the checksum out of the members and compares it with that of the others.
func (s *server) isSigned(members map[string]jsontext.Value) bool {
	var checksum string
	if json.Unmarshal(members["checksum"], &checksum) != nil {
		return false
	}
	delete(members, "checksum")
	delete(members, "checksumMethod")
	text, err := json.Marshal(members)
	if err != nil {
		return false
	}
	// RFC 8785 sorts and prints as JavaScript does.
	signed := jsontext.Value(text)
	if signed.Canonicalize() != nil {
		return false
	}
	mac := hmac.New(sha256.New, s.secret)
	mac.Write(signed)
	return hmac.Equal([]byte(checksum), []byte(hex.EncodeToString(mac.Sum(nil))))
}

func orderReference(data jsontext.Value) []byte {
	var payment struct {
		OrderReference *string `json:"orderReference"`
	}
	if json.Unmarshal(data, &payment) != nil || payment.OrderReference == nil {
		return nil
	}
	return []byte(*payment.OrderReference)
}

func run() error {
	// Idempotent, as it is by default.
	kafka, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(os.Getenv("KAFKA"), ",")...),
		kgo.DefaultProduceTopic(os.Getenv("TOPIC")),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
	)
	if err != nil {
		return err
	}
	defer kafka.Close()

	ends, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := kafka.Ping(ends); err != nil {
		return fmt.Errorf("no Kafka: %w", err)
	}

	routes := http.NewServeMux()
	handler := &server{kafka, []byte(os.Getenv("SECRET"))}
	routes.HandleFunc("POST /webhooks/clickpesa", handler.webhook)
	listener := &http.Server{Addr: os.Getenv("ADDRESS"), Handler: routes}
	failed := make(chan error, 1)
	go func() { failed <- listener.ListenAndServe() }()

	select {
	case err := <-failed:
		return err
	case <-ends.Done():
	}
	closing, cancel := context.WithTimeout(context.Background(), closeWithin)
	defer cancel()
	return listener.Shutdown(closing)
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
