-- What the scheduler needs of a description, beside what it has.
ALTER TABLE jobs ADD COLUMN backend text NOT NULL GENERATED ALWAYS AS (coalesce(spec ->> 'backend', 'AUTO')) STORED;

-- What each node says of each kind of sandbox: its cost, or why the node does not have it.
ALTER TABLE nodes ADD COLUMN offers jsonb NOT NULL DEFAULT '[]';
