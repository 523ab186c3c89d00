package kafkanode

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Partitions is how many partitions the topic in a node's folder has, and 0 if it
// has no such topic. The node may be running. Whoever opens a folder for a topic
// that it may have already asks here, since another number is refused.
func Partitions(dir, topic string) (int, error) {
	path := filepath.Join(newDisk(dir).log, "topics.json")
	raw, err := os.ReadFile(path) //nolint:gosec // a path of our own folder
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("partitions of %s: %w", topic, err)
	}
	var kept struct { // by kfake, which writes it whenever a topic is made
		Topics []struct {
			Name       string `json:"name"`
			Partitions int    `json:"partitions"`
		} `json:"topics"`
	}
	if err := json.Unmarshal(raw, &kept); err != nil {
		return 0, fmt.Errorf("partitions of %s: read %s: %w", topic, path, err)
	}
	for _, t := range kept.Topics {
		if t.Name == topic {
			return t.Partitions, nil
		}
	}
	return 0, nil
}
