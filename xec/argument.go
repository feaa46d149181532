package xec

import (
	"fmt"
)

// parseValues converts the words given with a method to its arguments.
func (m *Method) parseValues(words []string) ([]any, error) {
	if len(words) != len(m.In) {
		return nil, fmt.Errorf("method %s expects %d args, but %d were given", m.Name, len(m.In), len(words))
	}
	values := make([]any, len(words))
	signature := 0
	for i, word := range words {
		value, err := parseArgument(i+1, word, m.In[i].Type)
		if err != nil {
			return nil, err
		}
		values[i] = value
		signature += len(m.In[i].Type)
	}
	if signature > maxSignature {
		return nil, fmt.Errorf("method %s has more arguments than a D-Bus message can carry", m.Name)
	}
	return values, nil
}

// parseArgument converts one word; number is its place, counted from 1. The text
// of the error is the historic one and does not go into detail.
func parseArgument(number int, word, signature string) (any, error) {
	t, err := ParseType(signature)
	if err != nil {
		return nil, fmt.Errorf("%w: argument %d: %w", ErrIntrospection, number, err)
	}
	value, err := ParseValue(word, t)
	if err != nil {
		return nil, fmt.Errorf("error parsing argument %d", number)
	}
	return value, nil
}
